"""Print finished runs beside the papers' figures.

python examples/paper/table.py runs/paper/*         # without runs: only the papers' figures

A run's accuracy is avg@k of its last evaluation: as in the papers the mean over benchmarks, if the evaluation set has a
`source` column (benchmarks.py creates such a set), else the mean over all prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from published import TABLE, Published

from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines

HEAD = ("model", "method", "paper: accuracy", "paper: rollouts", "ours: accuracy", "ours: rollouts", "ours: run")
NOTES = """Columns headed "paper" are the papers' own figures (PREPO's table in 2511.00794 with corrected model labels;
E3's average in 2505.18573); columns headed "ours" were measured by the listed runs. Accuracy is in percent:
PREPO's is avg@16, the mean over 16 samples (which its table calls passrate@16); E3's is pass@1, the same mean.
(!): the mean printed in the paper is not the mean of its cells; -: not given or not evaluated."""


@dataclass(frozen=True)
class Run:
    """The result of a finished run."""

    model: str
    method: str
    accuracy: str
    rollouts: int
    name: str


def read_run(folder: Path) -> Run:
    """Read a finished run; raises UsageError if it is not one."""
    path = folder / "summary.json"
    if not folder.is_dir():
        raise UsageError(f"no such run folder: {folder}")
    if not path.is_file():
        started = (folder / "config.yaml").is_file()
        cure = f"finish it with: prepo train --resume --output-dir {folder}" if started else "pass a run folder"
        raise UsageError(f"{folder} is not a finished run (no summary.json); {cure}")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        model, method, rollouts = summary["model"], summary["recipe"], summary["cost"]["rollouts_total"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a summary of prepo train ({error}); pass a run folder") from error
    return Run(Path(model).name.lower(), method, _accuracy(folder, summary), int(rollouts), str(folder))


def rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Every published row with its runs, one line per run; then the runs without a published row."""
    lines = []
    for cell in TABLE:
        matching = [run for run in runs if (run.model, run.method) == (cell.model, cell.method)]
        lines += [_row(cell.model, cell.method, cell, run) for run in matching or [None]]
    published = {(cell.model, cell.method) for cell in TABLE}
    others = [run for run in runs if (run.model, run.method) not in published]
    return lines + [_row(run.model, run.method, None, run) for run in others]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a finished run")
    args = parser.parse_args(argv)
    try:
        table = rows([read_run(folder) for folder in args.runs])
    except UsageError as error:
        print(f"table.py: {error}", file=sys.stderr)
        sys.exit(2)
    for line in (HEAD, ("---", "---", *["---:"] * 4, "---"), *table):
        print(f"| {' | '.join(line)} |")
    print(f"\n{NOTES}")


def _row(model: str, method: str, cell: Published | None, run: Run | None) -> tuple[str, ...]:
    paper = ("-", "-")
    if cell is not None:
        mean = "-" if cell.mean is None else f"{cell.mean:.2f}{' (!)' if cell.doubtful else ''}"
        mean += "" if cell.pass_at_16 is None else f" (pass@16 {cell.pass_at_16:.2f})"
        paper = (mean, "-" if cell.rollouts is None else f"{cell.rollouts:,}")
    ours = ("-", "-", "-") if run is None else (run.accuracy, f"{run.rollouts:,}", run.name)
    return (model, method, *paper, *ours)


def _accuracy(folder: Path, summary: dict[str, Any]) -> str:
    metric, after = summary.get("metric"), summary.get("after")
    if not after or metric not in after:
        return "-"
    last = max(read_lines(folder / "evaluations.jsonl"), key=lambda line: line["step"], default={})
    by_source = [row[metric]["value"] for row in last.get("by_source", {}).values()]
    if len(by_source) > 1:
        return f"{100 * sum(by_source) / len(by_source):.2f} ({metric}, {len(by_source)} benchmarks)"
    return f"{100 * after[metric]['value']:.2f} ({metric}, {after['prompts']} prompts)"


if __name__ == "__main__":
    main()
