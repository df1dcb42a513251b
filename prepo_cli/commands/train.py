"""`prepo train`: one training run, from flags to summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prepo_cli.startup import large_imports

SLOT_HELP = "a spec such as name:key=value,key=value; see `prepo strategies`"
VERDICT_HELP = "Reward function that decides what is correct [default: math, else exact, else boxed, else the first]."


def train(
    recipe: Annotated[str | None, typer.Option(help="Set all five slots: prepo (default), random, dapo, ...")] = None,
    selector: Annotated[str | None, typer.Option(help=f"Which prompts to roll out: {SLOT_HELP}.")] = None,
    budget: Annotated[str | None, typer.Option(help="How many rollouts each prompt gets.")] = None,
    filter: Annotated[str | None, typer.Option("--filter", help="Which rollouts to train on.")] = None,
    weighting: Annotated[str | None, typer.Option(help="How much each rollout or token counts.")] = None,
    temperature_schedule: Annotated[str | None, typer.Option(help="The sampling temperature of each step.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub name, folder, run folder (its final model), or 'embedded' (default).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="File, folder, short name, Hub name, or 'embedded' (default).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset [default: train].")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N rows.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps [default: 200, embedded model: 50].")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Reward function: math (default), exact, boxed or package.module:function; repeatable."),
    ] = None,
    verdict: Annotated[str | None, typer.Option(help=VERDICT_HELP)] = None,
    engine: Annotated[str | None, typer.Option(help="Generation engine: hf (default), vllm or vllm-server.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Run folder [default: runs/<recipe>-seed<seed>].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers [default: 0].")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column with the gold answers.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Skip rows that can't be used, and count them.")
    ] = False,
    config: Annotated[
        list[Path] | None, typer.Option(help="YAML configuration file; repeatable, later files win.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: training.learning_rate=1e-5; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the run in the run folder.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Train a model with reinforcement learning on verifiable rewards.

    Without arguments, train the embedded model on the embedded task with recipe prepo: a few minutes on a CPU.

    \b
    Examples:
      prepo train
      prepo train --selector ppl-schedule --weighting rel-entropy
      prepo train --recipe dapo --seed 1 --output-dir runs/dapo-1
      prepo train --model Qwen/Qwen2.5-1.5B --dataset dapo.parquet --steps 200 \\
          --set training.learning_rate=1e-6
      prepo train --resume --output-dir runs/prepo-seed0
    """
    flags: dict[str, Any] = {
        "recipe": recipe,
        "strategies.selector": selector,
        "strategies.budget": budget,
        "strategies.filter": filter,
        "strategies.weighting": weighting,
        "strategies.temperature_schedule": temperature_schedule,
        "model.model_name_or_path": model,
        "data.dataset_name": dataset,
        "data.split": split,
        "data.limit": limit,
        "data.prompt_column": prompt_column,
        "data.answer_column": answer_column,
        "data.skip_bad_rows": skip_bad_rows or None,
        "rewards.functions": reward,
        "rewards.verdict": verdict,
        "training.total_steps": steps,
        "engine.name": engine,
        "output_dir": output_dir,
        "seed": seed,
    }
    from prepo_cli.config import resolve
    from prepo_cli.reporting.summary import print_summary

    resolved = resolve(config or (), flags, set_ or ())
    saved = Path(resolved.output_dir) / "config.yaml"
    if resume and saved.is_file():
        resolved = resolve((saved, *(config or ())), flags | {"output_dir": resolved.output_dir}, set_ or ())
    with large_imports():
        from prepo_cli.training.train import train as run

    summary = run(resolved, resume=resume, overwrite=overwrite)
    if summary is None:  # not the main process
        return
    if json_output:
        import json

        typer.echo(json.dumps(summary))
    else:
        print_summary(summary)
    if resolved.reporting.push_to_hub:
        from prepo_cli.reporting.hub import push_run
        from prepo_cli.terminal import say

        say(f"pushed to {push_run(resolved, Path(resolved.output_dir))}")
