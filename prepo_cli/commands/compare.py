"""`prepo compare`: which strategy saves how much; reads runs, or trains those that a study lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prepo_cli.commands import run_flags
from prepo_cli.errors import UsageError

if TYPE_CHECKING:
    from prepo_cli.comparison.plan import PlannedRun
    from prepo_cli.comparison.result import Comparison, Run


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, `prepo eval` folders, or outputs of TRL or verl."),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            help=(
                "Comma-separated recipes or YAML files to train unless finished; prepo/weighting=uniform replaces a "
                "slot."
            )
        ),
    ] = None,
    ablate: Annotated[
        str | None, typer.Option(help="Train this recipe and its ablations: each slot in turn reset to its default.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to train with: 0,1,2 or 0..4.")] = "0",
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of runs to train in parallel; they share the cores and GPUs.")
    ] = 1,
    baseline: Annotated[
        str | None, typer.Option(help="Recipe to compare the others with [default: random, else the first].")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Accuracy at which costs are compared [default: the baseline's final accuracy]."),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Folder for the page and the figures, and for any runs trained.")
    ] = Path("comparison"),
    model: run_flags.Model = None,
    dataset: run_flags.Dataset = None,
    split: run_flags.Split = None,
    limit: run_flags.Limit = None,
    steps: run_flags.Steps = None,
    max_rollouts: run_flags.MaxRollouts = None,
    max_tokens: run_flags.MaxTokens = None,
    max_seconds: run_flags.MaxSeconds = None,
    reward: run_flags.Reward = None,
    verdict: run_flags.Verdict = None,
    engine: run_flags.Engine = None,
    prompt_column: run_flags.PromptColumn = None,
    answer_column: run_flags.AnswerColumn = None,
    skip_bad_rows: run_flags.SkipBadRows = False,
    config: run_flags.Config = None,
    set_: run_flags.Set = None,
    break_lock: run_flags.BreakLock = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
) -> None:
    """Compare recipes by accuracy and cost, with uncertainty over seeds and prompts.

    Prints a verdict and a table, and writes figures and an interactive HTML page. With --recipes or --ablate, missing
    runs are trained first; run the same command again to resume an interrupted study.

    \b
    Examples:
      prepo compare runs/prepo-seed0 runs/random-seed0
      prepo compare --recipes random,prepo,greso --seeds 0..4 --jobs 2 \\
          --max-rollouts 20000 --output-dir study
      prepo compare --ablate prepo --seeds 0..2 --steps 100 --output-dir ablation
      prepo compare evals/base evals/trained
      prepo compare runs/* --baseline grpo --target 0.55 --json
    """
    settings = run_flags.settings(locals())
    study = bool(recipes or ablate)
    if not study and (any(value is not None for value in settings.values()) or config or set_):
        raise UsageError("training settings need --recipes or --ablate, which choose what to train")
    if not study and not runs:
        raise UsageError("nothing to compare; pass run folders, or recipes to train with --recipes")
    from prepo_cli.comparison.output import claimed
    from prepo_cli.ownership import refuse_non_folder
    from prepo_cli.recipes import ALIASES

    refuse_non_folder(output_dir)
    baseline = baseline and ALIASES.get(baseline, baseline)
    known = _read(runs) if runs else []  # before training, which takes longer than a wrong path
    planned = _planned(recipes, ablate, seeds, output_dir, settings, config or [], set_ or []) if study else []
    if planned:
        from prepo_cli.comparison.launch import train_missing

        _refuse_baseline(planned, baseline, {run.recipe for run in known})
        with claimed(output_dir, planned, break_lock):
            train_missing(planned, jobs)
    from prepo_cli.comparison.analysis import as_json  # scipy takes a second
    from prepo_cli.comparison.analysis import compare as compare_runs

    known += _read([run.folder for run in planned])
    comparison = compare_runs(known, baseline=baseline, target=target)
    with claimed(output_dir, planned, break_lock):
        pictures = _written(comparison, output_dir)
    if json_output:
        import json

        typer.echo(json.dumps(as_json(comparison) | {"page": str(output_dir / "page.html")}))
    else:
        from prepo_cli.comparison.tables import show
        from prepo_cli.terminal import line
        from prepo_cli.text import counted

        show(comparison)
        drawn = f" and {counted(len(pictures), 'figure')} (PNG and SVG)" if pictures else ""
        line(f"written: {output_dir / 'page.html'}{drawn}")


def _read(folders: Sequence[Path]) -> list[Run]:
    from prepo_cli.comparison.runs import read_run

    return [read_run(folder) for folder in folders]


def _planned(
    recipes: str | None,
    ablate: str | None,
    seeds: str,
    root: Path,
    settings: dict[str, Any],
    config: list[Path],
    sets: list[str],
) -> list[PlannedRun]:
    """The runs of the study."""
    from prepo_cli.comparison.plan import ablations, parse_recipes, parse_seeds, plan

    choices = parse_recipes(recipes or "") + (ablations(ablate) if ablate else [])
    return plan(choices, parse_seeds(seeds), root, config, settings, sets)


def _refuse_baseline(planned: list[PlannedRun], baseline: str | None, others: set[str]) -> None:
    """Make sure, before training, that there will be a baseline."""
    from prepo_cli.comparison.runs import recipe_label
    from strategies.registry import did_you_mean

    recipes = {recipe_label(run.config.recipe, run.config.strategies.model_dump()) for run in planned} | others
    if baseline is not None and not any(name == baseline or baseline.startswith(f"{name} (") for name in recipes):
        raise UsageError(
            f"--baseline {baseline}: not among the recipes{did_you_mean(baseline, recipes)}; "
            f"known: {'; '.join(sorted(recipes))}"
        )


def _written(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write the page and the pictures; returns the pictures' files by caption."""
    from prepo_cli.comparison.figures import draw
    from prepo_cli.comparison.page import write_page

    try:
        pictures = draw(comparison, folder)
        write_page(folder / "page.html", comparison)
    except OSError as error:
        raise UsageError(f"can't write to {folder} ({error.strerror}); choose another --output-dir") from error
    return pictures
