"""A weighting that makes the loss of chosen steps infinite, and one that takes the same steps' gradient away."""

from __future__ import annotations

import numpy as np

from strategies.base import RolloutWeighting, StrategyParams
from strategies.types import Batch, FloatArray, StepContext


class Steps(RolloutWeighting):
    """Weights of 1, but `value` for one rollout of the steps from `first` to `last`, and 0 for their others."""

    class Params(StrategyParams):
        """Which steps, and what they get."""

        first: int = 2
        last: int = 2
        value: float = 1e300

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        weights_N = np.ones(len(batch.rewards_N))
        if self.params.first <= ctx.step <= self.params.last:
            weights_N[:] = 0
            weights_N[np.argmax(np.abs(batch.advantages_N))] = self.params.value
        return weights_N[:, None]
