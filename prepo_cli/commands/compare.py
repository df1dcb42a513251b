"""`prepo compare`: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prepo_cli.errors import UsageError
from prepo_cli.startup import large_imports

if TYPE_CHECKING:
    from prepo_cli.reporting.compare import Run


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    recipes: Annotated[
        str | None, typer.Option(help="Comma-separated recipes to train, unless their runs are finished.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="With --recipes: comma-separated seeds.")] = "0",
    target: Annotated[
        float | None, typer.Option(help="Target avg@k [default: the lowest of the runs' best avg@k].")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for the figures and the page; with --recipes also for the runs.")
    ] = Path("comparison"),
    steps: Annotated[int | None, typer.Option(help="With --recipes: number of training steps.")] = None,
    model: Annotated[str | None, typer.Option(help="With --recipes: the model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="With --recipes: the dataset.")] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="With --recipes: YAML configuration file; repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="With --recipes: any setting as in prepo train; repeatable.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Compare finished runs by accuracy, cost and rollouts to a target accuracy.

    Prints a table and writes four figures and an HTML page. With --recipes, missing runs are trained first and
    interrupted ones are resumed.

    \b
    Examples:
      prepo compare runs/prepo-seed0 runs/random-seed0
      prepo compare --recipes random,prepo --seeds 0,1,2 --output-dir study
      prepo compare runs/* --target 0.55 --json
    """
    folders = list(runs or [])
    if recipes:
        flags = {"training.total_steps": steps, "model.model_name_or_path": model, "data.dataset_name": dataset}
        for recipe in recipes.split(","):
            for seed in seeds.split(","):
                folders.append(_ensure(recipe.strip(), seed.strip(), output_dir, flags, config or [], set_ or []))
    if not folders:
        raise UsageError("nothing to compare; pass run folders, or recipes to train with --recipes")
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output-dir {output_dir} is a file; choose a folder")
    from prepo_cli.reporting.compare import compare as compare_runs
    from prepo_cli.reporting.compare import read_run

    finished = [read_run(folder) for folder in folders]
    result = compare_runs(finished, target)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        figures = _draw(finished, output_dir)
    except OSError as error:
        raise UsageError(f"can't write to {output_dir} ({error.strerror}); choose another --output-dir") from error
    _page(finished, result, figures, output_dir / "page.html")
    if json_output:
        import json

        typer.echo(json.dumps(result | {"page": str(output_dir / "page.html")}))
    else:
        _show(result, output_dir)


def _ensure(recipe: str, seed: str, root: Path, flags: dict[str, Any], config: list[Path], sets: list[str]) -> Path:
    """The folder of the finished run of a recipe and seed; starts or resumes the run if needed."""
    from prepo_cli.config import read_yaml, resolve

    folder = root / f"{recipe}-seed{seed}"
    if not seed.isdigit():
        raise UsageError(f"--seeds: '{seed}' is not a seed; use whole numbers of 0 or more, such as 0,1,2")
    resolved = resolve(config, flags | {"recipe": recipe, "seed": int(seed), "output_dir": str(folder)}, sets)
    if (folder / "summary.json").is_file():
        if read_yaml(folder / "config.yaml") != resolved.model_dump(mode="json"):
            raise UsageError(f"{folder} holds a run with different settings; choose another --output-dir")
        return folder
    with large_imports():
        from prepo_cli.training.train import train

    resumable = any((folder / "checkpoints").glob("step-*"))
    train(resolved, resume=resumable, overwrite=not resumable)
    return folder


def _draw(runs: list[Run], folder: Path) -> dict[str, Path]:
    """Draw the figures; returns their files by caption."""
    from prepo_cli.reporting import figures

    names = [run.name for run in runs]
    evaluations = [(name, run.evaluations) for name, run in zip(names, runs, strict=True)]
    metrics = [(name, run.metrics) for name, run in zip(names, runs, strict=True)]
    files = {
        "Accuracy over rollouts generated": folder / "accuracy_over_rollouts.png",
        "Accuracy over training seconds": folder / "accuracy_over_seconds.png",
        "Training reward": folder / "reward.png",
        "Zero-variance groups": folder / "zero_std.png",
    }
    by_rollouts, by_seconds, reward, zero = files.values()
    figures.accuracy_curves(evaluations, "rollouts_total", "rollouts generated", by_rollouts)
    figures.accuracy_curves(evaluations, "train_seconds", "training seconds", by_seconds)
    figures.metric_curves(metrics, "reward", "mean reward of all rollouts", reward)
    figures.metric_curves(metrics, "frac_reward_zero_std", "share of zero-variance groups", zero)
    return files


HEADINGS = (
    "run", "final", "difference to first", "rollouts to target", "generated", "trained", "tokens", "seconds"
)  # fmt: skip


def _rows(result: dict[str, Any]) -> list[list[str]]:
    from prepo_cli.statistics import interval_text

    return [
        [
            row["run"],
            interval_text(row["final"]),
            interval_text(row["difference_to_first"], "+.3f"),
            "not reached" if row["rollouts_to_target"] is None else f"{row['rollouts_to_target']:,.0f}",
            f"{row['rollouts_total']:,}",
            f"{row['rollouts_trained']:,}",
            f"{row['tokens_generated']:,}",
            f"{row['seconds']:,.0f}",
        ]
        for row in result["runs"]
    ]


def _note(result: dict[str, Any]) -> str:
    target = "no target: a run was never evaluated" if result["target"] is None else f"target {result['target']:.3f}"
    return f"{result['metric']} with 95% intervals over prompts, {target}"


def _page(runs: list[Run], result: dict[str, Any], files: dict[str, Path], path: Path) -> None:
    from prepo_cli.reporting.page import write_page

    write_page(path, HEADINGS, _rows(result), files, {run.name: run.config for run in runs}, _note(result))


def _show(result: dict[str, Any], folder: Path) -> None:
    from prepo_cli.terminal import table

    table(_note(result), HEADINGS, _rows(result))
    if any(row["seeds"] > 1 for row in result["recipes"]):
        forms = {"final": ".3f", "rollouts_to_target": ",.0f", "rollouts_total": ",.0f", "seconds": ",.0f"}
        rows = [
            [row["recipe"], row["seeds"], *(_spread(row, name, form) for name, form in forms.items())]
            for row in result["recipes"]
        ]
        table(
            "mean over seeds ± standard deviation",
            ["recipe", "seeds", "final", "rollouts to target", "generated", "seconds"],
            rows,
        )
    typer.echo(f"written: {folder / 'page.html'} and 4 figures")


def _spread(row: dict[str, Any], name: str, form: str) -> str:
    value, spread = row[name], row[f"{name}_spread"]
    return "" if value is None else f"{value:{form}}" + (f" ± {spread:{form}}" if spread is not None else "")
