"""Expected lengths of completions: a prompt's are expected to be as long as they were last time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class ExpectedLengths:
    """Mean length by prompt; for an unseen prompt a running mean over all, None before the first."""

    def __init__(self, num_prompts: int) -> None:
        self._length = np.zeros(num_prompts, dtype=np.float32)
        self._mean: float | None = None

    def __getitem__(self, index: int) -> float | None:
        known = float(self._length[index])
        return known if known > 0 else self._mean

    def observe(self, index: int, lengths: Sequence[int]) -> None:
        """Record the lengths of a prompt's completions."""
        mean = float(np.mean(lengths))
        self._length[index] = mean
        self._mean = mean if self._mean is None else 0.99 * self._mean + 0.01 * mean

    def state_dict(self) -> dict[str, Any]:
        """The recorded lengths."""
        known = np.flatnonzero(self._length)
        return {"mean": self._mean, "index": known, "length": self._length[known]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._mean = state["mean"]
        self._length[state["index"]] = state["length"]
