"""PODS (2504.13818): generate n rollouts, train on the m whose rewards vary most.

The m rewards of maximum variance are the top i and the bottom m - i for some i; prefix sums make it cheap to try every
i. Ties are broken by the order of the rollouts.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from strategies.base import RolloutFilter, StrategyParams
from strategies.registry import register
from strategies.types import BoolArray, FloatArray, Group, StepContext


def max_variance_subset(rewards_N: FloatArray, m: int) -> BoolArray:
    """Mask [N] of the m rewards with maximum variance.

    >>> import numpy as np
    >>> max_variance_subset(np.array([0.0, 0.5, 1.0, 0.6, 0.1, 1.0]), m=4).tolist()
    [True, False, True, False, True, True]
    """
    n = len(rewards_N)
    order = np.argsort(rewards_N, kind="stable")
    ordered = rewards_N[order] - rewards_N.mean()
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])
    bottom = np.arange(m + 1)
    top = m - bottom
    total = sums[bottom] + sums[n] - sums[n - top]
    total_squares = squares[bottom] + squares[n] - squares[n - top]
    best = int(np.argmax(total_squares / m - (total / m) ** 2))
    mask_N = np.zeros(n, dtype=np.bool_)
    mask_N[order[:best]] = True
    mask_N[order[n - (m - best) :]] = True
    return mask_N


@register("max-variance")
class MaxVariance(RolloutFilter):
    """Trains on those rollouts of each group whose rewards vary most."""

    paper = "2504.13818"

    class Params(StrategyParams):
        """How many rollouts to train on, as a share or a number."""

        share: float = Field(0.5, gt=0, le=1, description="share of a group's rollouts to train on, at least 2 of them")
        count: int | None = Field(None, ge=2, description="number of a group's rollouts to train on; overrides share")

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        n = len(group.completions)
        m = self.params.count or max(2, round(self.params.share * n))
        return max_variance_subset(group.rewards_N, min(n, m))
