"""PODS (2504.13818): generate n rollouts, train on the m whose rewards vary the most.

The m rewards of maximum variance are the bottom i and the top m - i for some i; prefix sums make it cheap to try every
i. Ties are broken by the order of the rollouts. Axis letters: N rollouts, S prefixes of 0 to n rewards, I values of i.
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
    order_N = np.argsort(rewards_N, kind="stable")
    centered_N = rewards_N[order_N] - rewards_N.mean()
    sums_S = np.concatenate([[0.0], np.cumsum(centered_N)])
    squares_S = np.concatenate([[0.0], np.cumsum(centered_N**2)])
    bottom_I = np.arange(m + 1)
    top_I = m - bottom_I
    total_I = sums_S[bottom_I] + sums_S[n] - sums_S[n - top_I]
    total_squares_I = squares_S[bottom_I] + squares_S[n] - squares_S[n - top_I]
    best = int(np.argmax(total_squares_I / m - (total_I / m) ** 2))
    mask_N = np.zeros(n, dtype=np.bool_)
    mask_N[order_N[:best]] = True
    mask_N[order_N[n - (m - best) :]] = True
    return mask_N


@register("max-variance")
class MaxVariance(RolloutFilter):
    """Trains on the rollouts of each group whose rewards vary the most."""

    paper = "2504.13818"

    class Params(StrategyParams):
        """How many rollouts to train on, as a share or a number."""

        share: float = Field(
            0.5, gt=0, le=1, description="share of each group's rollouts to train on, at least 2 of them"
        )
        count: int | None = Field(
            None, ge=2, le=2**16, description="number of each group's rollouts to train on; overrides share"
        )

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        n = len(group.completions)
        m = self.params.count or max(2, round(self.params.share * n))
        return max_variance_subset(group.rewards_N, min(n, m))
