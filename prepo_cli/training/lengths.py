"""Expected completion lengths: a prompt's mean length at its last visit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class ExpectedLengths:
    """Mean length by prompt; for an unseen prompt the running mean over all prompts, None before the first visit."""

    def __init__(self, num_prompts: int) -> None:
        self._length_P = np.zeros(num_prompts, dtype=np.float32)
        self._mean: float | None = None

    def __getitem__(self, index: int) -> float | None:
        known = float(self._length_P[index])
        return known if known > 0 else self._mean

    def observe(self, index: int, lengths: Sequence[int]) -> None:
        """Record the lengths of a prompt's completions."""
        mean = float(np.mean(lengths))
        self._length_P[index] = mean
        self._mean = mean if self._mean is None else 0.99 * self._mean + 0.01 * mean

    def state_dict(self) -> dict[str, Any]:
        """The recorded lengths."""
        known = np.flatnonzero(self._length_P)
        return {"mean": self._mean, "index": known, "length": self._length_P[known]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._mean = state["mean"]
        self._length_P[state["index"]] = state["length"]
