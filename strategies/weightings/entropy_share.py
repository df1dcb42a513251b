"""Sequence entropy relative to the rollout's own group, as GRPO-S does (2508.04349).

w_i = Hbar_i / mean of Hbar over the group, Hbar_i the mean entropy of rollout i's tokens; a group's mean weight is 1.
Deviation: the paper shapes rewards with entropy ratios before normalizing them, in opposite directions for correct and
wrong answers; here the same ratio scales the advantage of both, so its sign never changes. In a group whose entropies
are all 0 the weights are 1.
"""

from __future__ import annotations

import numpy as np

from strategies.base import RolloutWeighting
from strategies.registry import register
from strategies.types import Batch, FloatArray, StepContext


def group_relative_entropy(batch: Batch) -> FloatArray:
    """Weights [N] with mean 1 in every group.

    >>> import numpy as np
    >>> from strategies import Batch
    >>> entropy_NT = np.array([[0.2, 0.4], [0.1, 0.1], [0.6, 0.0], [0.6, 0.6]])
    >>> batch = Batch(np.array([0, 0, 1, 1]), np.zeros(4), np.zeros(4), entropy_NT, entropy_NT > 0)
    >>> group_relative_entropy(batch).round(6).tolist()
    [1.5, 0.5, 1.0, 1.0]
    """
    _, group_N = np.unique(batch.group_N, return_inverse=True)
    entropy_N = batch.mean_entropy_N
    mean_G = np.bincount(group_N, entropy_N) / np.bincount(group_N)
    mean_N = mean_G[group_N]
    return np.divide(entropy_N, mean_N, out=np.ones_like(entropy_N), where=mean_N > 0)


@register("entropy-share")
class EntropyShare(RolloutWeighting):
    """Weighs each rollout by its mean token entropy relative to its group's."""

    paper = "2508.04349"
    needs_entropy = True

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        return group_relative_entropy(batch)[:, None]
