"""`prepo eval`: sample k answers per prompt and measure how many are correct."""

from __future__ import annotations

from typing import Annotated

import typer

from prepo_cli.commands import run_flags
from prepo_cli.commands.run_flags import VERDICT_HELP


def evaluate_command(
    model: Annotated[
        str, typer.Option(help="Hub name, folder, run folder or 'latest' (its final model), or 'embedded'.")
    ] = "embedded",
    dataset: Annotated[
        str | None,
        typer.Option(help="File, folder, short name, Hub name or 'embedded' (default); several as aime24,math500."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset [default: test].")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N rows.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Samples per prompt [default: 16].")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy decoding and sets --k 1 [default: 1].")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling: keep the most probable tokens up to this total probability [default: 1]."),
    ] = None,
    max_completion_length: Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens per completion [default: 96 for the embedded model, else 2560 or what fits]."
        ),
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option(help="Maximum tokens per prompt; longer prompts are left out and counted [default: what fits]."),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Maximum rows x context length of a decoding batch; lower it to save memory.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="System message prepended to every prompt.")] = None,
    template_arg: Annotated[
        list[str] | None, typer.Option(help="Chat template argument, such as enable_thinking=false; repeatable.")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Reward function: math (default), exact, boxed or your own as file.py:function; repeatable."),
    ] = None,
    verdict: Annotated[str | None, typer.Option(help=VERDICT_HELP)] = None,
    engine: Annotated[str, typer.Option(help="Generation engine: hf, vllm or vllm-server.")] = "hf",
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Sampling seed [default: 0].")] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            help=(
                "Folder for the results, with a subfolder per dataset if there are several [default: "
                "evals/<model>-<dataset>]."
            )
        ),
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column with the gold answers.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Skip and count unusable rows.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any engine or rewards setting, such as rewards.correct_reward=0.5; repeatable."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the existing evaluation.")] = False,
    break_lock: run_flags.BreakLock = False,
) -> None:
    """Sample k answers per prompt and report avg@k, pass@j and maj@k with 95% intervals.

    With --model runs/a, the run's own settings apply: its evaluation prompts (unless --dataset is given), samples per
    prompt, temperature, lengths, system prompt, template arguments, rewards and seed. Flags override them.

    Several datasets, separated by commas, share one loaded model; the table has a row for each and their unweighted
    mean. An existing path is one dataset, even with commas in its name.

    Run the same command again to resume. All samples are written to samples.parquet in the output folder.

    \b
    Examples:
      prepo eval --k 16
      prepo eval --model latest --k 16 --json
      prepo eval --temperature 0
      prepo eval --model Qwen/Qwen2.5-Math-1.5B --dataset aime24,math500 --k 4
      prepo eval --model Qwen/Qwen3-4B --dataset math500 --engine vllm \\
          --dtype bfloat16
      prepo eval --reward math --reward my_rewards.py:short \\
          --set 'rewards.weights=[1, 0.1]'
    """
    from prepo_cli.api.evaluate import evaluate

    summary = evaluate(
        model,
        dataset,
        split=split,
        limit=limit,
        k=k,
        temperature=temperature,
        top_p=top_p,
        max_completion_length=max_completion_length,
        max_prompt_length=max_prompt_length,
        batch_tokens=batch_tokens,
        system_prompt=system_prompt,
        template_arg=template_arg or (),
        reward=reward or (),
        verdict=verdict,
        engine=engine,
        dtype=dtype,
        seed=seed,
        output_dir=output_dir,
        prompt_column=prompt_column,
        answer_column=answer_column,
        skip_bad_rows=skip_bad_rows,
        sets=set_ or (),
        overwrite=overwrite,
        break_lock=break_lock,
    )
    if json_output:
        import json

        typer.echo(json.dumps(summary))
    else:
        from prepo_cli.evaluation.table import print_evaluations

        datasets = summary.get("datasets", {"": summary})
        print_evaluations(list(datasets.values()))
