"""The final table of `prepo eval`."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from prepo_cli.text import plain


def print_evaluation(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print accuracies with their intervals, rows by source and by reward function, lengths, time and counts."""
    console = console or Console(width=get_terminal_size((120, 24)).columns, markup=False, emoji=False, highlight=False)
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
    if summary["left_out"]:
        console.print(
            f"{summary['left_out']:,} prompts were left out: they are longer than {summary['max_prompt_length']} tokens"
        )
    if summary["timeouts"]:
        console.print(f"{summary['timeouts']:,} answers took too long to check and count as wrong")
    if summary["errors"]:
        console.print(f"{summary['errors']:,} answers could not be scored: a reward failed on them or was not finite")
    console.print(plain(f"samples: {summary['output_dir']}/samples.parquet"), soft_wrap=True)


def _measures(summary: dict[str, Any]) -> Table:
    title = plain(f"{summary['model']} on {summary['dataset']}: {summary['prompts']:,} prompts x {summary['k']}")
    table = Table("measure", _right("value"), _right("95% interval"), title=title, title_justify="left")
    for name, value in summary.items():
        if isinstance(value, dict) and "low" in value:
            table.add_row(name, *_cells(value))
    return table


def _by_source(summary: dict[str, Any]) -> Table:
    avg = f"avg@{summary['k']}"
    table = Table("source", _right("prompts"), _right(avg), _right("95% interval"))
    for source, row in summary["by_source"].items():
        table.add_row(plain(source), f"{row['prompts']:,}", *_cells(row[avg]))
    return table


def _rewards(by_function: dict[str, dict[str, float]]) -> Table:
    table = Table("reward", _right("mean"), _right("std"))
    for name, moments in by_function.items():
        table.add_row(plain(name), *(f"{moments[key]:.3f}" if key in moments else "" for key in ("mean", "std")))
    return table


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _cells(interval: dict[str, float]) -> tuple[str, str]:
    return f"{interval['value']:.3f}", f"{interval['low']:.3f} .. {interval['high']:.3f}"
