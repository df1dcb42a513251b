"""`prepo train`: one training run, from flags to summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prepo_cli.commands import run_flags
from prepo_cli.commands.run_flags import SLOT_HELP
from prepo_cli.startup import large_imports


def train(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe for all five slots: prepo (default), grpo, ..., or a YAML file.")
    ] = None,
    selector: Annotated[str | None, typer.Option(help=f"Which prompts to roll out: {SLOT_HELP}.")] = None,
    budget: Annotated[str | None, typer.Option(help="How many rollouts each prompt gets.")] = None,
    filter: Annotated[str | None, typer.Option("--filter", help="Which rollouts to train on.")] = None,
    weighting: Annotated[str | None, typer.Option(help="How much each rollout or token counts.")] = None,
    temperature_schedule: Annotated[str | None, typer.Option(help="Sampling temperature of each step.")] = None,
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
    output_dir: Annotated[str | None, typer.Option(help="Run folder [default: runs/<recipe>-seed<seed>].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers [default: 0].")] = None,
    prompt_column: run_flags.PromptColumn = None,
    answer_column: run_flags.AnswerColumn = None,
    skip_bad_rows: run_flags.SkipBadRows = False,
    config: run_flags.Config = None,
    set_: run_flags.Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the existing run.")] = False,
    break_lock: run_flags.BreakLock = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record steps 2 to 4; print what cost most, and write profile.json.gz.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Train a model with reinforcement learning on verifiable rewards.

    Without arguments, train the embedded model on the embedded task with recipe prepo: a few minutes on a CPU. Setting
    a slot without --recipe resets the others to random, uniform, keep-all, uniform and constant, unless the chosen
    strategy sets them; startup prints all five.

    --resume continues an interrupted run from its latest checkpoint, or extends a finished one to more --steps.
    --model RUN starts a new run from another run's final model.

    \b
    Examples:
      prepo train
      prepo train --selector ppl-schedule --weighting rel-entropy
      prepo train --recipe dapo --seed 1 --output-dir runs/dapo-1
      prepo train --recipe greso --max-rollouts 20000
      prepo train --model Qwen/Qwen2.5-1.5B --dataset dapo.parquet --steps 200 \\
          --set training.learning_rate=1e-6
      prepo train --recipe my_recipe.yaml
      prepo train --resume --output-dir runs/prepo-seed0
      prepo train --resume --output-dir runs/prepo-seed0 --steps 400
      prepo train --model runs/prepo-seed0 --output-dir runs/second
    """
    flags: dict[str, Any] = {
        **run_flags.settings(locals()),
        "recipe": recipe,
        "strategies.selector": selector,
        "strategies.budget": budget,
        "strategies.filter": filter,
        "strategies.weighting": weighting,
        "strategies.temperature_schedule": temperature_schedule,
        "output_dir": output_dir,
        "seed": seed,
    }
    from prepo_cli.config import read_yaml, resolve
    from prepo_cli.reporting.summary import print_summary

    resolved = resolve(config or (), flags, set_ or ())
    saved = Path(resolved.output_dir) / "config.yaml"
    if resume and saved.is_file():
        read_yaml(saved, "restore an intact copy, or start over with --overwrite")
        resolved = resolve((saved, *(config or ())), flags | {"output_dir": resolved.output_dir}, set_ or ())
    with large_imports():
        from prepo_cli.training.train import train as run

    summary = run(resolved, resume=resume, overwrite=overwrite, break_lock=break_lock, profile=profile)
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
