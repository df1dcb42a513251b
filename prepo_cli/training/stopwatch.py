"""Seconds by phase."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Runs from when it is made; `seconds` has the laps, and their sum as `step`."""

    def __init__(self) -> None:
        self._started = self._last = perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, phase: str | None = None) -> None:
        """The time since the last lap was spent on `phase`; without one it only counts in the sum."""
        now = perf_counter()
        if phase is not None:
            self._laps[phase] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds until the last lap."""
        return self._last - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Laps, and `step` for their sum."""
        return {**self._laps, "step": self.total}
