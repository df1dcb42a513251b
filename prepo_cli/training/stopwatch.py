"""Seconds by phase, which are also entries of a profile (profiling.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from torch.profiler import record_function

PHASES = ("select", "generate", "reward", "logprob", "update", "sync")
"""The phases of a step, in their order; docs/metrics.md says what each consists of."""


class Stopwatch:
    """Starts when created; adds up the seconds of each phase, which don't overlap."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A context whose time is added to a phase."""
        started = perf_counter()
        with record_function(f"step: {name}"):
            yield
        self._seconds[name] += perf_counter() - started

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase so far."""
        return dict(self._seconds)
