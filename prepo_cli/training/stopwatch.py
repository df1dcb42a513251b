"""Seconds by phase."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Starts when created; `seconds` has the time of each phase, and the total as `step`."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str | None = None) -> None:
        """Record the time since the last lap under `phase`; without one it only counts towards the total."""
        now = perf_counter()
        if phase is not None:
            self._laps[phase] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds from the start to the last lap."""
        return self._last - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase, and the total as `step`."""
        return {**self._laps, "step": self.total}
