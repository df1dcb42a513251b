"""Trains on high-entropy "forking" tokens only (2506.01939): weight 1 for the top share of tokens, else 0.

The share is taken over the whole batch: exactly ceil(share * tokens) tokens get weight 1, ties broken by rollout and
position. The loss still divides by the number of all tokens, as in the paper's objective.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from strategies.base import RolloutWeighting, StrategyParams
from strategies.registry import register
from strategies.types import Batch, FloatArray, StepContext


def top_tokens(batch: Batch, share: float) -> FloatArray:
    """Weights [N, T]: 1 for the tokens of highest entropy, else 0.

    >>> import numpy as np
    >>> from strategies import Batch
    >>> entropy_NT = np.array([[0.2, 0.4, 1.5], [0.1, 0.9, 0.0]])
    >>> batch = Batch(np.array([0, 0]), np.zeros(2), np.zeros(2), entropy_NT, entropy_NT > 0)
    >>> top_tokens(batch, share=0.4).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    entropy_M = batch.entropy_M
    keep = math.ceil(share * len(entropy_M) - 1e-9)
    weight_M = np.zeros(len(entropy_M))
    if keep:
        threshold = np.partition(entropy_M, len(entropy_M) - keep)[len(entropy_M) - keep]
        weight_M[entropy_M > threshold] = 1.0
        ties = np.flatnonzero(entropy_M == threshold)
        weight_M[ties[: keep - int(weight_M.sum())]] = 1.0
    weights_NT = np.zeros(batch.mask_NT.shape)
    weights_NT[batch.mask_NT] = weight_M
    return weights_NT


@register("high-entropy-tokens")
class HighEntropyTokens(RolloutWeighting):
    """Trains only on the batch's highest-entropy tokens."""

    paper = "2506.01939"
    needs_entropy = True

    class Params(StrategyParams):
        """How many tokens to train on."""

        share: float = Field(0.2, gt=0, le=1, description="share of the batch's tokens to train on")

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        return top_tokens(batch, self.params.share)
