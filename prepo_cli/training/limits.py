"""What ends a run: its number of steps, or the first step that reaches a limit on its cost."""

from __future__ import annotations

from prepo_cli.sections import TrainingConfig
from prepo_cli.training.progress import Progress

UNITS = {"total_steps": "steps", "max_rollouts": "rollouts", "max_tokens": "tokens", "max_seconds": "seconds"}
"""What each limit of the configuration counts."""


class Limits:
    """The limits that a run's configuration sets; the run ends with the first one that is reached.

    >>> limits = Limits(TrainingConfig(total_steps=None, max_rollouts=1000))
    >>> limits.share(Progress(step=3)), limits.reached(Progress(step=3))
    (0.0, False)
    """

    def __init__(self, training: TrainingConfig) -> None:
        limits = {unit: getattr(training, name) for name, unit in UNITS.items()}
        self.limits: dict[str, float] = {unit: limit for unit, limit in limits.items() if limit is not None}

    def share(self, progress: Progress) -> float:
        """Share of the run that is done: of the limit that is closest."""
        done = self.done(progress)
        return max(done[unit] / limit for unit, limit in self.limits.items())

    def spent(self, progress: Progress) -> float | None:
        """The same for the strategies' context; None where steps are the only limit, which they count themselves."""
        return None if list(self.limits) == ["steps"] else self.share(progress)

    def reached(self, progress: Progress) -> bool:
        """Whether the run is finished."""
        return self.share(progress) >= 1

    def shown(self, progress: Progress) -> tuple[str, float, float]:
        """For the display: the unit of one limit, a cost rather than steps, how much of it is done, and the limit."""
        unit = list(self.limits)[-1]
        return unit, self.done(progress)[unit], self.limits[unit]

    @staticmethod
    def done(progress: Progress) -> dict[str, float]:
        """How much of each unit is done."""
        costs = progress.costs
        return {
            "steps": progress.step,
            "rollouts": costs.rollouts_total,
            "tokens": costs.tokens_generated + costs.tokens_scored,
            "seconds": costs.seconds,
        }
