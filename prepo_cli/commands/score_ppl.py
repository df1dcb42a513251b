"""`prepo score-ppl`: the perplexity of every prompt under a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prepo_cli.commands import run_flags


def score_ppl(
    dataset: Annotated[str, typer.Argument(help="File, folder, short name, Hub name, or 'embedded'.")],
    model: Annotated[
        str, typer.Option(help="Hub name, folder, run folder or 'latest' (its final model), or 'embedded'.")
    ] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .parquet or .csv file [default: <dataset>_ppl in the same format].")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    limit: Annotated[int | None, typer.Option(help="Use only the first N rows.")] = None,
    scope: Annotated[
        str, typer.Option(help="Which tokens to score: question, or prompt for the whole rendered prompt.")
    ] = "question",
    system_prompt: Annotated[str | None, typer.Option(help="System message prepended to every prompt.")] = None,
    template_arg: Annotated[
        list[str] | None, typer.Option(help="Chat template argument, such as enable_thinking=false; repeatable.")
    ] = None,
    max_prompt_length: Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens per prompt; longer prompts get no perplexity [default: the model's context]."
        ),
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens per forward pass.")] = 16384,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    engine: Annotated[str, typer.Option(help="Engine that computes log-probs: hf, vllm or vllm-server.")] = "hf",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any engine setting, such as engine.vllm_tensor_parallel_size=2; repeatable."),
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Skip and count unusable rows.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a histogram to this PNG file.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing output of this command.")
    ] = False,
    break_lock: run_flags.BreakLock = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Add the perplexity of every prompt to a dataset, and print the distribution.

    The columns are ppl, ppl_tokens (number of scored tokens) and ppl_context (how it was scored). For `--selector
    ppl-schedule:source=stored`, use the model, system prompt and template arguments of the run; it warns if they
    differ.

    Run the same command again to resume. --overwrite replaces only an output of this command.

    \b
    Examples:
      prepo score-ppl dataset.jsonl
      prepo score-ppl dapo_math_17k.parquet --output scored.parquet --plot ppl.png
      prepo score-ppl dataset.jsonl --model Qwen/Qwen2.5-Math-1.5B \\
          --dtype bfloat16 --system-prompt 'Put the answer in \\boxed{}.'
      prepo score-ppl dataset.jsonl --model Qwen/Qwen3-4B \\
          --template-arg enable_thinking=false
    """
    from prepo_cli.api.score_ppl import score_ppl as score

    report = score(
        dataset,
        model,
        revision=revision,
        output=output,
        split=split,
        limit=limit,
        scope=scope,
        system_prompt=system_prompt,
        template_arg=template_arg or (),
        max_prompt_length=max_prompt_length,
        batch_tokens=batch_tokens,
        dtype=dtype,
        engine=engine,
        sets=set_ or (),
        prompt_column=prompt_column,
        skip_bad_rows=skip_bad_rows,
        plot=plot,
        overwrite=overwrite,
        break_lock=break_lock,
    )
    if json_output:
        import json

        typer.echo(json.dumps(report))
    else:
        _show(report, plot)


def _show(report: dict[str, Any], plot: Path | None) -> None:
    from prepo_cli.terminal import line, table

    rows = [["prompts", f"{report['prompts']:,}"], ["scored", f"{report['scored']:,}"]]
    if report["scored"]:
        rows += [[name, f"{report[name]:,.3f}"] for name in ("mean", "median", "min", "max")]
        rows += [[f"decile {i}", f"{value:,.3f}"] for i, value in enumerate(report["deciles"], 1)]
    rows += [["seconds", f"{report['seconds']:,.1f}"], ["prompts / s", f"{report['prompts_per_second']:,.1f}"]]
    table("prompt perplexity", ["", "value"], rows)
    line(f"written: {report['output']}" + (f", {plot}" if plot else ""))
