"""Relative entropy weighting of PREPO (2511.00794, section 3.2): w_i = Hbar_i / Hbar.

Hbar_i is the mean entropy over rollout i's tokens, Hbar the mean over the batch, across prompts and processes.
Choices where the paper is silent: Hbar pools all tokens (`mean=token`, the default, so that sum_i w_i |o_i| =
sum_i |o_i|) or is the mean of the Hbar_i (`mean=sequence`, so that the mean weight is 1); `max_weight` clips the
weights, off by default. If every entropy is 0, all weights are 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from strategies.base import RolloutWeighting, StrategyParams
from strategies.registry import register
from strategies.types import Batch, FloatArray, RunInfo, StepContext


def relative_entropy(batch: Batch, mean: str = "token") -> FloatArray:
    """Weights [N], float64, with mean 1 over tokens (`token`) or rollouts (`sequence`).

    >>> import numpy as np
    >>> from strategies import Batch
    >>> entropy_NT = np.array([[0.2, 0.4, 0.0, 0.0], [0.6, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.5]])
    >>> batch = Batch(np.zeros(3, int), np.zeros(3), np.zeros(3), entropy_NT, entropy_NT > 0)
    >>> relative_entropy(batch).round(6).tolist()
    [1.05, 2.1, 0.7]
    >>> relative_entropy(batch, mean="sequence").round(6).tolist()
    [0.818182, 1.636364, 0.545455]
    """
    entropy_N, lengths_N = batch.mean_entropy_N, batch.lengths_N
    weight_by = lengths_N if mean == "token" else (lengths_N > 0)
    total = float(np.sum(weight_by))
    overall = float(np.sum(entropy_N * weight_by)) / total if total else 0.0
    return entropy_N / overall if overall > 0 else np.ones_like(entropy_N)


@register("rel-entropy")
class RelEntropy(RolloutWeighting):
    """Weighs each rollout by its mean token entropy relative to the batch's."""

    paper = "2511.00794"
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "mean": ("weight", "mean over the batch's rollouts"),
        "p0": ("weight", "lowest"),
        "p10": ("weight", "10th percentile"),
        "p50": ("weight", "median"),
        "p90": ("weight", "90th percentile"),
        "p100": ("weight", "highest"),
    }
    needs_entropy = True

    class Params(StrategyParams):
        """Choices where the paper is silent."""

        mean: Literal["token", "sequence"] = Field(
            "token", description="average over the batch's tokens or over its rollouts"
        )
        max_weight: float | None = Field(None, gt=0, le=1e6, description="upper bound on the weights (default: none)")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self._last: dict[str, float] = {}

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        weights_N = relative_entropy(batch, self.params.mean)
        if self.params.max_weight is not None:
            weights_N = np.minimum(weights_N, self.params.max_weight)
        quantiles = np.quantile(weights_N, [0.0, 0.1, 0.5, 0.9, 1.0])
        self._last = {"mean": float(weights_N.mean())} | {
            f"p{q}": float(value) for q, value in zip((0, 10, 50, 90, 100), quantiles, strict=True)
        }
        return weights_N[:, None]

    def metrics(self) -> dict[str, float]:
        return self._last
