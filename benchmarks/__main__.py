"""Measure prepo against what it could be, or what others are, and write the ratios and the tables in the docs.

Variants of the same work take turns, each in a process of its own (paired.py).

    python -m benchmarks                     # all of them: about half an hour on two cores
    python -m benchmarks --only update       # one
    python -m benchmarks --check             # small sizes; reports what is over 20% worse than the committed ratios
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.paired import ROOT, Ratio, ratios
from prepo_cli.terminal import results, ruled

NAMES = ("output_matrix", "update", "score", "against_trl", "trl_adapter")
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- ratios -->", "<!-- end of ratios -->"
ROUNDS = 5
WORSE = 1.2
PACKAGES = ("torch", "transformers", "accelerate", "trl")


def main() -> None:
    """Measure, show, and write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--check", action="store_true", help="compare with the committed ratios instead of writing")
    arguments = parser.parse_args()
    names = arguments.only or NAMES
    if arguments.check:
        check(names, arguments.rounds)
    else:
        write(names, arguments.rounds)


def write(names: Any, rounds: int) -> None:
    """Measure at both sizes, and keep the ratios of benchmarks that were not asked for."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in names:
        found = {size: ratios(name, size, rounds) for size in ("full", "quick")}
        show(found["full"])
        kept[name] = {"measured": measured(), "rounds": rounds} | {
            size: {claim: asdict(ratio) for claim, ratio in by_claim.items()} for size, by_claim in found.items()
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:start]}\n\n{markdown(kept)}\n\n{text[end:]}", encoding="utf-8")


def check(names: Any, rounds: int) -> None:
    """Measure at the small size and say which ratios got worse."""
    if not RESULTS.exists():
        raise SystemExit(f"no ratios to compare with in {RESULTS.name}; measure them with make bench")
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    worse = []
    for name in (name for name in names if name in kept):
        found = ratios(name, "quick", rounds)
        show(found)
        for claim, ratio in found.items():
            before = kept[name]["quick"][claim]["median"]
            if ratio.median > WORSE * before:
                worse.append(f"{claim}: {ratio.median:.2f}, was {before:.2f}")
    for line in worse or ["no ratio is over 20% worse than the committed one"]:
        print(line)


def show(found: dict[str, Ratio]) -> None:
    """Print ratios as a table."""
    table = ruled("ratio", "median", "lowest", "highest", "goal")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, ratio in found.items():
        table.add_row(name, *(f"{value:.3f}" for value in (ratio.median, ratio.low, ratio.high)), _goal(ratio.limit))
    results().print(table)


def markdown(kept: dict[str, Any]) -> str:
    """All ratios at full size as one table."""
    lines = ["| ratio | median | spread | goal | measured |", "| --- | ---: | ---: | ---: | --- |"]
    for entry in kept.values():
        for name, ratio in entry["full"].items():
            spread = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
            lines.append(
                f"| {name} | {ratio['median']:.2f} | {spread} | {_goal(ratio['limit'])} | {entry['measured']} |"
            )
    return "\n".join(lines)


def measured() -> str:
    """Date, machine and versions."""
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), {', '.join(known)}"


def _goal(limit: float | None) -> str:
    return "" if limit is None else f"{limit:g}"


if __name__ == "__main__":
    main()
