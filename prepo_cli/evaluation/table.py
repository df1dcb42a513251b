"""The final tables of `prepo eval`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prepo_cli.evaluation.results import accuracies, joined_summaries
from prepo_cli.statistics import interval_text
from prepo_cli.terminal import line, table
from prepo_cli.text import counted


def print_evaluations(summaries: Sequence[dict[str, Any]]) -> None:
    """Print one evaluation in full, or a row for each of several with their mean."""
    if len(summaries) == 1:
        _print_evaluation(summaries[0])
        return
    _print_datasets(summaries)
    for summary in summaries:
        for text in (*_notes(summary), f"{summary['output_dir']}/samples.parquet"):
            line(f"{summary['dataset']}: {text}")


def _print_evaluation(summary: dict[str, Any]) -> None:
    """Accuracies with their intervals, rows by source and by reward function, lengths, time and counts."""
    title = f"{summary['model']} on {summary['dataset']}: {summary['prompts']:,} prompts x {summary['k']}"
    rows = [[name, interval_text(value)] for name, value in accuracies(summary).items()]
    table(title, ["measure", "value [95% interval]"], rows)
    if summary["by_source"]:
        avg = f"avg@{summary['k']}"
        rows = [[name, f"{row['prompts']:,}", interval_text(row[avg])] for name, row in summary["by_source"].items()]
        table("by source", ["source", "prompts", f"{avg} [95% interval]"], rows)
    if summary["rewards"]:
        rows = [
            [name, *(f"{moments[key]:.3f}" if key in moments else "" for key in ("mean", "std"))]
            for name, moments in summary["rewards"].items()
        ]
        table("by reward function", ["reward", "mean", "std"], rows)
    line(
        f"mean length {summary['mean_length']:.1f} tokens, {summary['truncated']:.1%} cut off at "
        f"{summary['max_completion_length']}; {summary['seconds']:.1f} s, "
        f"{summary['prompts_per_second']:.2f} prompts/s"
    )
    for note in _notes(summary):
        line(note)
    line(f"samples: {summary['output_dir']}/samples.parquet")


def _print_datasets(summaries: Sequence[dict[str, Any]]) -> None:
    means = joined_summaries(summaries)["mean"]
    avg, *others = dict.fromkeys(f"{kind}@{summaries[0]['k']}" for kind in ("avg", "pass", "maj"))
    rows = [
        [
            summary["dataset"],
            f"{summary['prompts']:,}",
            interval_text(summary[avg]),
            *(f"{summary[name]['value']:.3f}" for name in others),
            f"{summary['mean_length']:,.1f}",
            f"{summary['truncated']:.1%}",
        ]
        for summary in summaries
    ]
    rows.append(["mean", "", interval_text(means[avg]), *(f"{means[name]['value']:.3f}" for name in others), "", ""])
    heads = ["dataset", "prompts", f"{avg} [95% interval]", *others, "tokens", "cut off"]
    table(f"{summaries[0]['model']}: {counted(summaries[0]['k'], 'sample')} per prompt", heads, rows)


def _notes(summary: dict[str, Any]) -> Iterator[str]:
    """What was left out or could not be judged."""
    if summary["left_out"]:
        longest = summary["max_prompt_length"]
        yield f"left out for exceeding {longest} tokens: {counted(summary['left_out'], 'prompt')}"
    if summary["timeouts"]:
        yield f"timed out and counted as wrong: {counted(summary['timeouts'], 'answer')}"
    if summary["errors"]:
        yield f"not scored because a reward failed or was not finite: {counted(summary['errors'], 'answer')}"
