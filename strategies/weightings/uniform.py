"""No weighting."""

from __future__ import annotations

import numpy as np

from strategies.base import RolloutWeighting
from strategies.registry import register
from strategies.types import Batch, FloatArray, StepContext


@register("uniform")
class Uniform(RolloutWeighting):
    """Gives every rollout weight 1."""

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        return np.ones((len(batch.rewards_N), 1))
