"""Variants of the same work, measured in turns, each in a process of its own, and reported as ratios with their spread.

A benchmark is a module that has `CLAIMS`, the ratios that it reports; `SIZES`, the work by name (`full`, `quick`); and
`measure(variant, **size)`, which does the work in this process and returns what it took (`seconds`, `bytes`). The order
of the variants is reversed from round to round, so a slow minute of the machine does not favor one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
Found = dict[str, float]


@dataclass(frozen=True)
class Claim:
    """A ratio: what `variant` takes of `of`, divided by what `base` takes; `limit` is what it must not exceed."""

    name: str
    variant: str
    base: str
    of: str = "seconds"
    limit: float | None = None


class Benchmark(Protocol):
    """A module that measures."""

    CLAIMS: tuple[Claim, ...]
    SIZES: Mapping[str, Mapping[str, Any]]
    measure: Callable[..., Found]


@dataclass(frozen=True)
class Ratio:
    """The median of a claim's ratios, the lowest and the highest, over rounds."""

    median: float
    low: float
    high: float
    limit: float | None

    @classmethod
    def of(cls, claim: Claim, rounds: list[dict[str, Found]]) -> Ratio:
        """The ratio in each round, then over rounds."""
        values = [found[claim.variant][claim.of] / found[claim.base][claim.of] for found in rounds]
        return cls(median(values), min(values), max(values), claim.limit)


def ratios(name: str, size: str, rounds: int) -> dict[str, Ratio]:
    """The ratios of a benchmark's claims, by their names."""
    module: Benchmark = import_module(f"benchmarks.{name}")  # type: ignore[assignment]
    variants = list(dict.fromkeys(v for claim in module.CLAIMS for v in (claim.variant, claim.base)))
    found = []
    for number in range(rounds):
        order = variants if number % 2 == 0 else variants[::-1]
        found.append({variant: _in_own_process(name, variant, size) for variant in order})
    return {claim.name: Ratio.of(claim, found) for claim in module.CLAIMS}


def timed(work: Callable[[], object], warm_up: bool = True) -> Found:
    """Seconds of a call, after one that is not measured, and the bytes by which memory exceeded what it was before."""
    if warm_up:
        work()
    with _peak() as bytes_above:
        started = perf_counter()
        work()
        seconds = perf_counter() - started
    return {"seconds": seconds, "bytes": bytes_above[0]}


def peak_bytes() -> float:
    """The most resident memory that this process has had; Linux only."""
    return _resident("VmHWM")


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Bytes of resident memory above what there was at the start; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, result = _resident("VmRSS"), [0.0]
    yield result
    result[0] = _resident("VmHWM") - before


def _resident(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024.0 * float(line.split()[1])


def _in_own_process(name: str, variant: str, size: str) -> Found:
    command = [sys.executable, "-m", "benchmarks.paired", name, variant, size]
    environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure one variant and print what it took as JSON."""
    name, variant, size = sys.argv[1:]
    module: Benchmark = import_module(f"benchmarks.{name}")  # type: ignore[assignment]
    print(json.dumps(module.measure(variant, **module.SIZES[size])))


if __name__ == "__main__":
    main()
