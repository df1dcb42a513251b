"""`prepo score-passrate`: how often a model solves every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prepo_cli.commands import run_flags
from prepo_cli.commands.run_flags import VERDICT_HELP


def score_passrate(
    dataset: Annotated[str, typer.Argument(help="File, folder, short name, Hub name, or 'embedded'.")],
    k: Annotated[int, typer.Option("--k", help="Samples per prompt.")] = 8,
    model: Annotated[
        str, typer.Option(help="Hub name, folder, run folder or 'latest' (its final model), or 'embedded'.")
    ] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A .jsonl, .parquet or .csv file [default: <dataset>_passrate in the same format]."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    limit: Annotated[int | None, typer.Option(help="Use only the first N rows.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy decoding.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Nucleus sampling: keep the most probable tokens up to this total probability.")
    ] = 1.0,
    max_completion_length: Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens per completion [default: 96 for the embedded model, else 2560 or what fits]."
        ),
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option(help="Maximum tokens per prompt; longer prompts get no pass rate [default: what fits]."),
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
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    prompt_column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column with the gold answers.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Skip and count unusable rows.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any engine or rewards setting, such as rewards.correct_reward=0.5; repeatable."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a figure to this PNG file.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing output of this command.")
    ] = False,
    break_lock: run_flags.BreakLock = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Add the pass rate of every prompt to a dataset: the share of k samples that are correct.

    The columns are pass_rate, pass_rate_low and pass_rate_high (95% interval), pass_k (samples), pass_length (mean
    tokens per completion) and pass_context (how it was measured). The report counts prompts that are always or never
    solved, whose rollouts give no learning signal until that changes. `--recipe sgpo` selects prompts by pass rate.

    Run the same command again to resume. --overwrite replaces only an output of this command.

    \b
    Examples:
      prepo score-passrate dataset.jsonl --k 8
      prepo score-passrate dapo_math_17k.parquet --plot pass_rates.png
      prepo score-passrate dataset.jsonl --model Qwen/Qwen2.5-Math-1.5B \\
          --engine vllm --dtype bfloat16
      prepo train --recipe sgpo --dataset dataset_passrate.jsonl
    """
    from prepo_cli.api.score_passrate import score_passrate as score

    report = score(
        dataset,
        k,
        model,
        revision=revision,
        output=output,
        split=split,
        limit=limit,
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
        prompt_column=prompt_column,
        answer_column=answer_column,
        skip_bad_rows=skip_bad_rows,
        sets=set_ or (),
        plot=plot,
        overwrite=overwrite,
        break_lock=break_lock,
    )
    if json_output:
        import json

        typer.echo(json.dumps(report))
    else:
        _show(report, f"{dataset}, {model}", plot)


def _show(report: dict[str, Any], name: str, plot: Path | None) -> None:
    from prepo_cli.statistics import interval_text
    from prepo_cli.terminal import line, table

    k, group = report["k"], report["zero_variance"]

    def interval(label: str, key: str) -> list[str]:
        return [label, interval_text(report[key])]

    rows = [["prompts", f"{report['prompts']:,}"]]
    if report["scored"] < report["prompts"]:
        rows.append(["with a pass rate", f"{report['scored']:,}"])
    rows += [
        ["mean", f"{report['mean']:.3f}"],
        interval(f"always solved ({k} of {k})", "always"),
        interval(f"never solved (0 of {k})", "never"),
        interval("varying", "varying"),
        *([f"decile {i}", f"{value:.3f}"] for i, value in enumerate(report["deciles"], 1)),
        ["mean tokens", f"{report['mean_length']:,.1f}"],
        ["seconds", f"{report['seconds']:,.1f}"],
        ["prompts / s", f"{report['prompts_per_second']:,.2f}"],
    ]
    table(f"pass rates of {name}: {k} samples per prompt", ["", "value [95% interval]"], rows)
    if report["by_perplexity"]:
        _show_by_perplexity(report["by_perplexity"])
    typer.echo(
        f"dead prompts, always or never solved: {report['dead']['value']:.1%}; "
        f"expected share of zero-variance groups of {group['group']}: {group['value']:.1%}"
    )
    if report["truncated"]:
        cut = report["truncated"] / report["rollouts"]
        typer.echo(f"{cut:.1%} of the completions were cut off at {report['max_completion_length']:,} tokens")
    if report["scored"] < report["prompts"]:
        left_out = report["prompts"] - report["scored"]
        typer.echo(f"{left_out:,} prompts have no pass rate: longer than {report['max_prompt_length']:,} tokens")
    for count, why in (("timeouts", "took too long to check"), ("errors", "could not be scored")):
        if report[count]:
            typer.echo(f"{report[count]:,} completions {why} and count as wrong")
    line(f"written: {report['output']}" + (f", {plot}" if plot else ""))


def _show_by_perplexity(parts: list[dict[str, Any]]) -> None:
    from prepo_cli.statistics import interval_text
    from prepo_cli.terminal import table

    rows = [
        [
            f"{part['ppl_low']:,.3f} to {part['ppl_high']:,.3f}",
            f"{part['prompts']:,}",
            interval_text(part["pass_rate"]),
        ]
        for part in parts
    ]
    table("pass rate by perplexity", ["ppl", "prompts", "pass rate [95% interval]"], rows)
