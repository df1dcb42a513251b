"""The final tables of `prepo eval`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from prepo_cli.evaluation.results import accuracies, joined_summaries
from prepo_cli.statistics import interval_text
from prepo_cli.text import plain


def print_evaluations(summaries: Sequence[dict[str, Any]]) -> None:
    """Print one evaluation in full, or a row for each of several with their mean."""
    console = Console(width=get_terminal_size((120, 24)).columns, markup=False, emoji=False, highlight=False)
    if len(summaries) == 1:
        _print_evaluation(summaries[0], console)
        return
    _title(console, f"{summaries[0]['model']}: {summaries[0]['k']} samples per prompt")
    console.print(_datasets(summaries))
    for summary in summaries:
        for text in (*_notes(summary), f"{summary['output_dir']}/samples.parquet"):
            console.print(plain(f"{summary['dataset']}: {text}"), soft_wrap=True)


def _print_evaluation(summary: dict[str, Any], console: Console) -> None:
    """Accuracies with their intervals, rows by source and by reward function, lengths, time and counts."""
    _title(console, f"{summary['model']} on {summary['dataset']}: {summary['prompts']:,} prompts x {summary['k']}")
    console.print(_measures(summary))
    if summary["by_source"]:
        console.print(_by_source(summary))
    if summary["rewards"]:
        console.print(_rewards(summary["rewards"]))
    console.print(
        f"mean length {summary['mean_length']:.1f} tokens, {summary['truncated']:.1%} cut off at "
        f"{summary['max_completion_length']}; {summary['seconds']:.1f} s, "
        f"{summary['prompts_per_second']:.2f} prompts/s"
    )
    for note in _notes(summary):
        console.print(note)
    console.print(plain(f"samples: {summary['output_dir']}/samples.parquet"), soft_wrap=True)


def _notes(summary: dict[str, Any]) -> Iterator[str]:
    """What was left out or could not be judged."""
    if summary["left_out"]:
        longest = summary["max_prompt_length"]
        yield f"{summary['left_out']:,} prompts were left out: they are longer than {longest} tokens"
    if summary["timeouts"]:
        yield f"{summary['timeouts']:,} answers took too long to check and count as wrong"
    if summary["errors"]:
        yield f"{summary['errors']:,} answers could not be scored: a reward failed on them or was not finite"


def _title(console: Console, text: str) -> None:
    """A line above a table, which would wrap its own title at its width."""
    console.print(plain(text), soft_wrap=True)


def _measures(summary: dict[str, Any]) -> Table:
    table = Table("measure", _right("value [95% interval]"))
    for name, value in accuracies(summary).items():
        table.add_row(name, interval_text(value))
    return table


def _by_source(summary: dict[str, Any]) -> Table:
    avg = f"avg@{summary['k']}"
    table = Table("source", _right("prompts"), _right(f"{avg} [95% interval]"))
    for source, row in summary["by_source"].items():
        table.add_row(plain(source), f"{row['prompts']:,}", interval_text(row[avg]))
    return table


def _datasets(summaries: Sequence[dict[str, Any]]) -> Table:
    means = joined_summaries(summaries)["mean"]
    avg, *others = dict.fromkeys(f"{kind}@{summaries[0]['k']}" for kind in ("avg", "pass", "maj"))
    heads = [_right(f"{avg} [95% interval]"), *map(_right, others), _right("tokens"), _right("cut off")]
    table = Table("dataset", _right("prompts"), *heads)
    for summary in summaries:
        table.add_row(
            plain(summary["dataset"]),
            f"{summary['prompts']:,}",
            interval_text(summary[avg]),
            *(f"{summary[name]['value']:.3f}" for name in others),
            f"{summary['mean_length']:,.1f}",
            f"{summary['truncated']:.1%}",
        )
    table.add_section()
    table.add_row("mean", "", interval_text(means[avg]), *(f"{means[name]['value']:.3f}" for name in others), "", "")
    return table


def _rewards(by_function: dict[str, dict[str, float]]) -> Table:
    table = Table("reward", _right("mean"), _right("std"))
    for name, moments in by_function.items():
        table.add_row(plain(name), *(f"{moments[key]:.3f}" if key in moments else "" for key in ("mean", "std")))
    return table


def _right(name: str) -> Column:
    return Column(name, justify="right")
