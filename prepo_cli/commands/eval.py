"""`prepo eval`: sample k answers to every prompt and measure how many are correct."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from prepo_cli.commands import run_flags
from prepo_cli.commands.run_flags import VERDICT_HELP
from prepo_cli.errors import UsageError
from prepo_cli.startup import large_imports


def evaluate_command(
    model: Annotated[
        str, typer.Option(help="Hub name, folder, run folder or 'latest' (its final model), or 'embedded'.")
    ] = ("embedded"),
    dataset: Annotated[str, typer.Option(help="File, folder, short name, Hub name, or 'embedded'.")] = "embedded",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use only the first N rows.")] = None,
    k: Annotated[int, typer.Option("--k", help="Samples per prompt.")] = 16,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Sample only from the most probable tokens that add up to this probability.")
    ] = 1.0,
    max_completion_length: Annotated[
        int | None, typer.Option(help="Tokens [default: 128 for the embedded model, else 2560 where that fits].")
    ] = None,
    max_prompt_length: Annotated[
        int | None, typer.Option(help="Tokens; longer prompts are left out and counted [default: what fits].")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Limit on rows x context in one decoding batch; lower it to save memory.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="System message before every prompt.")] = None,
    template_arg: Annotated[
        list[str] | None, typer.Option(help="Argument of the chat template: enable_thinking=false; repeatable.")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Reward function: math (default), exact, boxed or package.module:function; repeatable."),
    ] = None,
    verdict: Annotated[str | None, typer.Option(help=VERDICT_HELP)] = None,
    engine: Annotated[str, typer.Option(help="Generation engine: hf, vllm or vllm-server.")] = "hf",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    output_dir: Annotated[
        str | None, typer.Option(help="Folder of the results [default: evals/<model>-<dataset>].")
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column with the gold answers.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Skip rows that can't be used, and count them.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of engine or rewards: rewards.correct_reward=0.5; repeatable."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the evaluation in the folder.")] = False,
    break_lock: run_flags.BreakLock = False,
) -> None:
    """Sample k answers to every prompt: avg@k, pass@j and maj@k with 95% intervals.

    Run the same command again to resume an interrupted evaluation. All samples are written to samples.parquet in the
    output folder.

    \b
    Examples:
      prepo eval --k 16
      prepo eval --model latest --k 16 --json
      prepo eval --model Qwen/Qwen2.5-Math-1.5B --dataset aime24 --k 4 --dtype bfloat16
      prepo eval --model Qwen/Qwen3-4B --dataset math500 --engine vllm --dtype bfloat16
      prepo eval --reward math --reward my_rewards:short --set 'rewards.weights=[1, 0.1]'
    """
    if k < 1:
        raise UsageError(f"--k {k}: use at least 1")
    from prepo_cli.config import sections_of, template_arguments
    from prepo_cli.models import run_named

    model = run_named(model)

    engine_settings: dict[str, Any] = {"name": engine, "vllm_gpu_memory_utilization": 0.9}
    if batch_tokens is not None:
        engine_settings["max_batch_tokens"] = batch_tokens
    rewards = {name: value for name, value in (("functions", reward), ("verdict", verdict)) if value}
    settings: dict[str, Any] = {
        "model": {"model_name_or_path": model, "dtype": dtype},
        "dataset_name": dataset,
        "split": split,
        "limit": limit,
        "prompt_column": prompt_column,
        "answer_column": answer_column,
        "skip_bad_rows": skip_bad_rows,
        "system_prompt": system_prompt,
        "chat_template_kwargs": template_arguments(template_arg or ()),
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "max_completion_length": max_completion_length,
        "max_prompt_length": max_prompt_length,
        "seed": seed,
        "output_dir": output_dir or f"evals/{_short(model)}-{_short(dataset)}",
        **sections_of(set_ or (), engine=engine_settings, rewards=rewards),
    }
    from pydantic import ValidationError

    from prepo_cli.config import validation_message
    from prepo_cli.evaluation.settings import EvalConfig

    try:
        config = EvalConfig.model_validate(settings)
    except ValidationError as error:
        raise UsageError(validation_message(error)) from error

    with large_imports():
        from prepo_cli.evaluation.session import run_evaluation

    summary = run_evaluation(config, overwrite=overwrite, break_lock=break_lock)
    if json_output:
        import json

        typer.echo(json.dumps(summary))
    else:
        from prepo_cli.evaluation.table import print_evaluation

        print_evaluation(summary)


def _short(name: str) -> str:
    """The last part of a path or hub name that identifies it, as a folder name."""
    path = Path(name)
    last = path.parent.name if path.name == "final" and path.parent.name else path.name
    stem = Path(last).stem if path.is_file() else last
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "here"
