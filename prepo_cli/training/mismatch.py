"""The gap between the engine that sampled and the trainer that learns: measured always, corrected where it is real.

An engine with kernels of its own gives the sampled tokens other log-probs than the trainer does, so the samples are
slightly off-policy even before the first update. Truncated importance sampling multiplies each token's loss by
min(pi_trainer / pi_engine, cap); masking drops what lies outside [1/cap, cap]
and multiplies the rest by its ratio. Both can look at tokens or, through
the sum of their log-ratios, at whole sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prepo_cli.sections import EngineConfig
from prepo_cli.training.loss import sequence_sum

LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Correction:
    """Weight of each token [M], and sums over tokens for the log."""

    weight_M: Tensor
    sums: dict[str, float]


def correction(
    trainer_M: Tensor, engine_M: Tensor, sequence_M: Tensor, config: EngineConfig, exact: bool = False
) -> Correction:
    """Compare log-probs of the sampled tokens under the trainer (before this step's updates) and the engine.

    Args:
        trainer_M, engine_M: log-probs without gradient; sequence_M: number of each token's sequence, from 0.
        exact: whether the engine's log-probs are the trainer's own (`Engine.exact_logprobs`).

    Returns:
        weights (all 1 if exact, or in mode `none`) and sums of |difference|, of the k3 estimate of
        KL(engine || trainer), of the ratios and of the share corrected.
    """
    gap_M = trainer_M - engine_M
    sums = {
        "sampling/logp_difference": gap_M.abs().sum().item(),
        "sampling/logp_difference_max": gap_M.abs().max().item(),
        "sampling/kl": (gap_M.clamp(max=LARGEST_LOG_RATIO).exp() - gap_M - 1).sum().item(),
    }
    mode = config.vllm_importance_sampling_mode
    if exact or mode == "none":
        return Correction(torch.ones_like(gap_M), sums)
    level, _, action = mode.partition("_")
    log_ratio_M = gap_M if level == "token" else sequence_sum(gap_M, sequence_M)[sequence_M]
    bound = math.log(config.vllm_importance_sampling_cap)
    ratio_M = log_ratio_M.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    if action == "truncate":
        outside_M = log_ratio_M > bound
        weight_M = ratio_M.clamp(max=config.vllm_importance_sampling_cap)
    else:
        outside_M = log_ratio_M.abs() > bound
        weight_M = ratio_M * ~outside_M
    sums |= {
        "sampling/importance_ratio": ratio_M.sum().item(),
        "sampling/importance_ratio_max": ratio_M.max().item(),
        "sampling/importance_ratio_min": ratio_M.min().item(),
        "sampling/corrected_ratio": outside_M.float().sum().item(),
    }
    return Correction(weight_M, sums)
