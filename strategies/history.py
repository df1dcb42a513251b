"""Reward statistics of every prompt, in arrays indexed by `Prompt.index`.

Ten million prompts take 160 MB. The cost of adding a step's groups does not depend on the size of the training set.
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
    """Number of rollouts, number of correct ones and sum of rewards of each prompt, since the start of the run."""

    def __init__(self, num_prompts: int) -> None:
        self.rollouts_P = np.zeros(num_prompts, dtype=np.int32)
        self.correct_P = np.zeros(num_prompts, dtype=np.int32)
        self.reward_P = np.zeros(num_prompts, dtype=np.float64)

    def add(self, groups: Sequence[Group]) -> None:
        """Add a round's rollouts; a prompt may occur in it more than once."""
        index_G = indices(groups)
        np.add.at(self.rollouts_P, index_G, [len(group.completions) for group in groups])
        np.add.at(self.correct_P, index_G, [group.num_correct for group in groups])
        np.add.at(self.reward_P, index_G, [float(group.rewards_N.sum()) for group in groups])

    def pass_rate(self, index_N: IntArray, prior: float = 0.0) -> FloatArray:
        """Pass rate of some prompts, with `prior` correct and `prior` wrong rollouts added; 0.5 for unseen prompts."""
        total_N = self.rollouts_P[index_N] + 2.0 * prior
        right_N = self.correct_P[index_N] + prior
        return np.asarray(np.divide(right_N, total_N, out=np.full(len(index_N), 0.5), where=total_N > 0))

    def mean_reward(self) -> FloatArray:
        """Mean reward of every prompt; 0 for unseen prompts."""
        return np.divide(self.reward_P, self.rollouts_P, out=np.zeros(len(self.reward_P)), where=self.rollouts_P > 0)

    def state_dict(self) -> State:
        """Copies of the arrays."""
        return {
            "rollouts": self.rollouts_P.copy(),
            "correct": self.correct_P.copy(),
            "reward": self.reward_P.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the arrays; raises ValueError if they come from another training set."""
        self.rollouts_P = restored(state["rollouts"], self.rollouts_P)
        self.correct_P = restored(state["correct"], self.correct_P)
        self.reward_P = restored(state["reward"], self.reward_P)


def indices(groups: Sequence[Group]) -> IntArray:
    """Row numbers of the groups' prompts."""
    return np.array([group.prompt.index for group in groups], dtype=np.int64)


def restored(saved: npt.NDArray[Scalar], like: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """A copy of a saved array; raises ValueError if its shape differs from that of `like`."""
    if saved.shape != like.shape:
        raise ValueError(f"the checkpoint has state for {saved.shape[0]:,} prompts, this run has {like.shape[0]:,}")
    return saved.astype(like.dtype, copy=True)
