"""Variants of the same work, measured in turns, each in a process of its own, and reported as ratios with their spread.

A benchmark is a module that has `CLAIMS`, the ratios and amounts that it reports; `SIZES`, the work by name (`full`,
`quick`, and for some `large`); and `measure(variant, **size)`, which does the work in this process and returns what it
took (`seconds`, `bytes`). The order of the variants is reversed from round to round, so a slow minute of the machine
does not favor one of them. Measuring processes are forked from one that has imported the benchmark and done nothing
else, so imports cost their time once. Benchmarks of training steps alternate step by step instead (turns.py). Linux
only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
Found = dict[str, float]
Note = Callable[[str], object]
"""Told about each measurement when it is done."""


@dataclass(frozen=True)
class Claim:
    """A ratio: what `variant` takes of `of`, divided by what `base` takes; `limit` is what it must not exceed.

    Without a base, the amount itself.
    """

    name: str
    variant: str
    base: str | None
    of: str = "seconds"
    limit: float | None = None

    @property
    def unit(self) -> str:
        """What its values count; empty for a ratio."""
        return self.of if self.base is None else ""


class Benchmark(Protocol):
    """A module that measures; it has `steps` instead where turns.py says so."""

    CLAIMS: tuple[Claim, ...]
    SIZES: Mapping[str, Mapping[str, Any]]
    measure: Callable[..., Found]


@dataclass(frozen=True)
class Ratio:
    """The median of a claim's values over rounds, the lowest and the highest, and their unit."""

    median: float
    low: float
    high: float
    limit: float | None
    unit: str = ""

    @classmethod
    def of(cls, claim: Claim, rounds: list[dict[str, Found]]) -> Ratio:
        """The value in each round, then over rounds."""
        values = [found[claim.variant][claim.of] for found in rounds]
        if claim.base is not None:
            values = [value / found[claim.base][claim.of] for value, found in zip(values, rounds, strict=True)]
        return cls(median(values), min(values), max(values), claim.limit, claim.unit)


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name."""
    return import_module(f"benchmarks.{name}")  # type: ignore[return-value]


def ratios(name: str, size: str, rounds: int, note: Note = print) -> dict[str, Ratio]:
    """A benchmark's ratios and amounts, by the names of its claims."""
    claims = benchmark(name).CLAIMS
    variants = list(dict.fromkeys(v for claim in claims for v in (claim.variant, claim.base) if v is not None))
    if hasattr(benchmark(name), "steps"):
        found = step_by_step(name, size, rounds, variants, note)
    else:
        orders = [variants if number % 2 == 0 else variants[::-1] for number in range(rounds)]
        measured = iter(in_own_processes(name, size, [variant for order in orders for variant in order], note))
        found = [{variant: next(measured) for variant in order} for order in orders]
    return {claim.name: Ratio.of(claim, found) for claim in claims}


def in_own_processes(name: str, size: str, variants: Sequence[str], note: Note = print) -> list[Found]:
    """What each variant takes, one after the other."""
    found: list[Found] = []
    for line in _lines("benchmarks.paired", name, size, *variants):
        found.append(line)
        progress = f"{len(found)} of {len(variants)}"
        note(f"{name}, {size}: {variants[len(found) - 1]}, {line['seconds']:.2f} s ({progress})")
    return found


def step_by_step(
    name: str, size: str, rounds: int, variants: Sequence[str], note: Note = print
) -> list[dict[str, Found]]:
    """What each variant takes in each round, of which each is a step of all variants in turn."""
    steps = dict[str, list[Found]]()
    turns = Counter[str]()
    for variant, found in _lines("benchmarks.turns", name, size, str(rounds), *variants):
        turns[variant] += 1
        note(f"{name}, {size}: {variant}, turn {turns[variant]}")
        if found is not None:
            steps[variant] = found
    return [{variant: steps[variant][number] for variant in variants} for number in range(rounds)]


def _lines(module: str, *arguments: str) -> Iterator[Any]:
    """What a module prints as lines of JSON when it is run."""
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads())}
    with TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()}")


def threads() -> int:
    """Threads that a measuring process computes with."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def timed(work: Callable[[], object], warm_up: bool = True) -> Found:
    """Seconds of a call, after one that is not measured, and the bytes by which memory exceeded what it was before."""
    if warm_up:
        work()
    with peak() as bytes_above:
        started = perf_counter()
        work()
        seconds = perf_counter() - started
    return {"seconds": seconds, "bytes": bytes_above[0]}


def peak_bytes() -> float:
    """The most resident memory that this process has had; Linux only."""
    return _resident("VmHWM")


@contextmanager
def peak() -> Iterator[list[float]]:
    """Bytes of resident memory above what there was at the start; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, result = _resident("VmRSS"), [0.0]
    yield result
    result[0] = _resident("VmHWM") - before


def _resident(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024.0 * float(line.split()[1])


def main() -> None:
    """Measure variants, each in a process forked from this one, and print what each took as a line of JSON."""
    name, size, *variants = sys.argv[1:]
    module, fork = benchmark(name), multiprocessing.get_context("fork")
    for variant in variants:
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_measure, args=(module, size, variant, sender))
        process.start()
        sender.close()
        try:
            print(json.dumps(receiver.recv()), flush=True)
        except EOFError:
            raise SystemExit(f"{name}, {size}: {variant} failed") from None
        process.join()


def _measure(module: Benchmark, size: str, variant: str, sender: Any) -> None:
    os.dup2(2, 1)  # what it and its own processes print is not a result
    with redirect_stdout(sys.stderr):
        sender.send(module.measure(variant, **module.SIZES[size]))


if __name__ == "__main__":
    main()
