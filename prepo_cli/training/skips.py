"""Updates that were skipped because their loss or gradient wasn't finite: their number, and what was in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prepo_cli.training.update_stats import SkippedSample

SAVED_STEPS = 10
"""Maximum number of steps whose skipped updates are saved, so that a run that keeps skipping does not fill the disk."""


@dataclass
class Skips:
    """Counts of a run: its skipped updates, the steps they were in, and those since the last update that was taken.

    >>> skips = Skips(limit=2)
    >>> for skipped in (True, False, True, True):
    ...     skips.count(skipped)
    >>> skips.exhausted, skips.total
    (True, 3)
    """

    limit: int
    total: int = 0
    in_a_row: int = 0
    saved_steps: int = 0

    def count(self, skipped: bool) -> None:
        """Count an update."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0

    @property
    def exhausted(self) -> bool:
        """Whether so many in a row were skipped that the run must stop."""
        return self.in_a_row >= self.limit

    def state_dict(self) -> dict[str, int]:
        """What checkpoints hold."""
        return {"total": self.total, "in_a_row": self.in_a_row, "saved_steps": self.saved_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what `state_dict` returned; a run that has stopped for them may skip as many again."""
        self.total, self.in_a_row, self.saved_steps = state["total"], state["in_a_row"], state["saved_steps"]
        if self.exhausted:
            self.in_a_row = 0


def skipped_rows(skipped: Sequence[SkippedSample]) -> dict[str, list[Any]]:
    """Columns of skipped/step_*.parquet, a row per sample; lists hold a number per token of its completion.

    `factor` is advantage x weight. `old_logprob` and `reference_logprob` are None where the loss needs none.
    """
    samples = [row.sample for row in skipped]
    return {
        "prompt_id": [s.prompt_id for s in samples],
        "group": [s.group for s in samples],
        "token_ids": [s.ids for s in samples],
        "prompt_tokens": [s.start for s in samples],
        "temperature": [s.temperature for s in samples],
        "reward": [s.reward for s in samples],
        "advantage": [s.advantage for s in samples],
        "factor": [s.factor_T for s in samples],
        "engine_logprob": [s.engine_logprob_T for s in samples],
        "old_logprob": [s.old_logprob_T for s in samples],
        "reference_logprob": [s.reference_logprob_T for s in samples],
        "logprob": [row.logprob_T for row in skipped],
        "loss": [row.loss_T for row in skipped],
    }
