"""Reward statistics of every prompt, in arrays that are indexed by `Prompt.index`.

Ten million prompts take 160 MB; adding a step's groups costs what the groups cost, whatever the training set's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from strategies.base import State
from strategies.types import FloatArray, Group, IntArray

Scalar = TypeVar("Scalar", bound=np.generic)


class PromptHistory:
    """Rollouts, reward sums and correct rollouts of each prompt since the run began."""

    def __init__(self, num_prompts: int) -> None:
        self.rollouts_P = np.zeros(num_prompts, dtype=np.int32)
        self.correct_P = np.zeros(num_prompts, dtype=np.int32)
        self.reward_P = np.zeros(num_prompts, dtype=np.float64)

    def add(self, groups: Sequence[Group]) -> None:
        """Count a round's rollouts; a prompt may stand in it more than once."""
        index_G = indices(groups)
        np.add.at(self.rollouts_P, index_G, [len(group.completions) for group in groups])
        np.add.at(self.correct_P, index_G, [group.num_correct for group in groups])
        np.add.at(self.reward_P, index_G, [float(group.rewards_N.sum()) for group in groups])

    def pass_rate(self, index: IntArray, prior: float = 0.0) -> FloatArray:
        """Share of correct rollouts of some prompts, with `prior` rollouts of each outcome added; 0.5 if unseen."""
        total = self.rollouts_P[index] + 2.0 * prior
        right = self.correct_P[index] + prior
        return np.asarray(np.divide(right, total, out=np.full(len(index), 0.5), where=total > 0))

    def mean_reward(self) -> FloatArray:
        """Mean reward of every prompt, 0 where unseen."""
        return np.divide(self.reward_P, self.rollouts_P, out=np.zeros(len(self.reward_P)), where=self.rollouts_P > 0)

    def state_dict(self) -> State:
        """Copies of the arrays."""
        return {
            "rollouts": self.rollouts_P.copy(),
            "correct": self.correct_P.copy(),
            "reward": self.reward_P.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take the arrays back; raises ValueError if they are of another training set."""
        self.rollouts_P = restored(state["rollouts"], self.rollouts_P)
        self.correct_P = restored(state["correct"], self.correct_P)
        self.reward_P = restored(state["reward"], self.reward_P)


def indices(groups: Sequence[Group]) -> IntArray:
    """Row numbers of the groups' prompts."""
    return np.array([group.prompt.index for group in groups], dtype=np.int64)


def restored(saved: npt.NDArray[Scalar], like: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """A copy of a saved array; raises ValueError if its shape is not that of `like`."""
    if saved.shape != like.shape:
        raise ValueError(f"the checkpoint is of {saved.shape[0]:,} prompts, this run has {like.shape[0]:,}")
    return saved.astype(like.dtype, copy=True)
