"""Measure prepo against what it could be, or what others are, and write the ratios and the tables in the docs.

Variants of the same work take turns, each in a process of its own (paired.py, turns.py).

    python -m benchmarks                     # all at the sizes `full` and `quick`: up to 20 minutes on two cores
    python -m benchmarks --only update       # one
    python -m benchmarks --large             # sizes that take too long for that: about 40 minutes more
    python -m benchmarks --check             # small sizes, without TRL; reports what got over 20% worse
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from benchmarks import page
from benchmarks.page import LARGE, Kept, goals_at, shown
from benchmarks.paired import Ratio, benchmark, ratios, threads
from prepo_cli.terminal import results, ruled
from prepo_cli.text import counted

ROUNDS = {
    "output_matrix": 3,
    "long_sequence": 1,
    "update": 3,
    "score": 5,
    "schedule": 12,
    "generation": 2,
    "against_trl": 10,
    "against_trl_15m": 3,
    "trl_adapter": 20,
}
"""The benchmarks that give ratios, and how often each measures its variants; step by step, how many steps."""
LARGE_ROUNDS = {"output_matrix": 5, "update": 5, "against_trl_15m": 5}
"""How often at the size `large`, where it differs."""
QUICK_ROUNDS, QUICK_STEPS = 3, 8
"""How often at most at the size `quick`."""
NAMES = tuple(ROUNDS)
GROWTH = "growth"
NEEDS_TRL = ("against_trl", "against_trl_15m", "trl_adapter")
RESULTS = Path(__file__).with_name("results.json")
WORSE = 1.2
PACKAGES = ("torch", "transformers", "accelerate", "trl")


def main() -> None:
    """Measure, show, and write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*NAMES, GROWTH), action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, help="by default 1 to 20, depending on the benchmark")
    parser.add_argument("--large", action="store_true", help="measure the size `large` of the benchmarks that have it")
    parser.add_argument("--check", action="store_true", help="compare with the committed ratios instead of writing")
    arguments = parser.parse_args()
    if arguments.check:
        names = arguments.only or NAMES
        check([name for name in names if name != GROWTH], arguments.rounds)
        return
    names = arguments.only or [*NAMES, GROWTH]
    if arguments.large:
        names = [name for name in names if name != GROWTH and LARGE in benchmark(name).SIZES]
    if not find_spec("trl") and (missing := [name for name in names if name in NEEDS_TRL]):
        parser.error(f"{', '.join(missing)}: TRL is not installed; use make bench, or choose others with --only")
    write(names, [LARGE] if arguments.large else ["full", "quick"], arguments.rounds)


def write(names: Sequence[str], sizes: Sequence[str], rounds: int | None) -> None:
    """Measure, and keep what was not asked for."""
    kept = read()
    for name in names:
        if name == GROWTH:
            from benchmarks.growth import points

            kept[GROWTH] = {"points": points(note), "measured": measured()}
        for size in () if name == GROWTH else [size for size in sizes if size in benchmark(name).SIZES]:
            count = rounds or rounds_of(name, size)
            found = ratios(name, size, count, note)
            if size != "quick":
                show(found, goals=size == goals_at(name))
            by_claim = {claim: asdict(ratio) for claim, ratio in found.items()}
            entry = {"measured": measured(), "rounds": count, "ratios": by_claim}
            kept[name] = kept.get(name, {}) | {size: entry}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page.write(kept, NAMES)


def check(names: Sequence[str], rounds: int | None) -> None:
    """Measure at the small size, and say which ratios and amounts of memory got worse; speeds depend on the machine."""
    kept = read()
    if not kept:
        print(f"nothing to compare with: {RESULTS.name} doesn't exist; make bench writes it")
        return
    worse = []
    for name in (name for name in names if "quick" in kept.get(name, {})):
        before = {claim: ratio["median"] for claim, ratio in kept[name]["quick"]["ratios"].items()}
        found = ratios(name, "quick", rounds or rounds_of(name, "quick"), note)
        show(found, before=before)
        for claim, ratio in found.items():
            if ratio.unit in ("", "bytes") and claim in before and ratio.median > WORSE * before[claim]:
                worse.append(f"{claim}: {shown(ratio.median, ratio.unit)}, was {shown(before[claim], ratio.unit)}")
    for line in worse or ["no ratio is over 20% worse than the committed one"]:
        print(line)


def rounds_of(name: str, size: str) -> int:
    """How often a benchmark measures its variants."""
    if size == "quick":
        return min(ROUNDS[name], QUICK_STEPS if hasattr(benchmark(name), "steps") else QUICK_ROUNDS)
    return LARGE_ROUNDS.get(name, ROUNDS[name]) if size == LARGE else ROUNDS[name]


def read() -> Kept:
    """What has been measured; nothing if there is no file."""
    kept: Kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return kept


def show(found: dict[str, Ratio], goals: bool = False, before: dict[str, float] | None = None) -> None:
    """Print ratios as a table, beside goals, if they are meant for this size, or those from before."""
    table = ruled("ratio or amount", "median", "lowest", "highest", "goal" if before is None else "committed")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, ratio in found.items():
        beside = before.get(name) if before is not None else ratio.limit if goals else None
        values = [ratio.median, ratio.low, ratio.high, beside]
        table.add_row(name, *(shown(value, ratio.unit) for value in values))
    results().print(table)


def note(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def measured() -> str:
    """Date, machine and versions."""
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    where = f"{counted(threads(), 'thread')} on {counted(os.cpu_count() or 1, 'core')} ({platform.machine()})"
    return f"{datetime.now(UTC):%Y-%m-%d}, {where}, {', '.join(known)}"


if __name__ == "__main__":
    main()
