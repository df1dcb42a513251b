"""Rollouts while they are generated: the rows that decode, those that wait, and what they have generated so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prepo_cli.engines.base import Request, Rollout

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def _nothing() -> FloatArray:
    return np.zeros((3, 0))


@dataclass(slots=True, eq=False)
class Row:
    """One rollout: the seed `number` of request `index`, with tokens, log-probs and entropies so far [3, T]."""

    index: int
    number: int
    request: Request
    record_3T: FloatArray = field(default_factory=_nothing)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.request.prompt_ids) + int(self.record_3T.shape[1])

    @property
    def longest(self) -> int:
        """Tokens that prompt and completion may become."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def context(self) -> list[int]:
        """All tokens so far."""
        return [*self.request.prompt_ids, *self.record_3T[0].astype(np.int64).tolist()]

    def rollout(self, ended: bool) -> Rollout:
        """The finished rollout."""
        tokens_T, logprobs_T, entropies_T = self.record_3T
        return Rollout(
            token_ids=tokens_T.astype(np.int64).tolist(),
            logprobs=logprobs_T.astype(np.float32),
            entropies=entropies_T.astype(np.float32),
            truncated=not ended,
        )


class Records:
    """What the B rows of a batch have generated: tokens, log-probs and entropies, `count_B` of each.

    Float64 holds all three exactly.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.count_B: IntArray = np.array([row.record_3T.shape[1] for row in rows], dtype=np.int64)
        self._values_BT3 = np.zeros((len(rows), int(self.count_B.max(initial=0)) + 1, 3))
        for b, row in enumerate(rows):
            self._values_BT3[b, : self.count_B[b]] = row.record_3T.T

    def append(self, rows_M: IntArray, values_M3: FloatArray) -> None:
        """Add a token with its log-prob and entropy to some rows."""
        columns = self._values_BT3.shape[1]
        if self.count_B[rows_M].max() >= columns:
            self._values_BT3 = np.pad(self._values_BT3, ((0, 0), (0, max(64, columns // 2)), (0, 0)))
        self._values_BT3[rows_M, self.count_B[rows_M]] = values_M3
        self.count_B[rows_M] += 1

    def of(self, b: int) -> FloatArray:
        """A copy of one row's, [3, T]."""
        return self._values_BT3[b, : self.count_B[b]].T.copy()
