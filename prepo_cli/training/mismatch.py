"""The mismatch between the log-probs of engine and trainer: always measured, corrected if the engine is not exact.

An engine with its own kernels assigns the sampled tokens other log-probs than the trainer, so the samples are
slightly off-policy even before the first update. Truncated importance sampling multiplies each token's loss by
min(pi_trainer / pi_engine, cap); masking drops ratios outside [1/cap, cap] and multiplies the rest by their ratio.
Both apply per token or, with summed log-ratios, per sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prepo_cli.losses import sequence_sum
from prepo_cli.training.update_stats import UpdateStats

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Correction:
    """The weight of each token [M], and what was measured."""

    weight_M: Tensor
    stats: UpdateStats


def correction(trainer_M: Tensor, engine_M: Tensor, sequence_M: Tensor, mode: str, cap: float) -> Correction:
    """Compare log-probs of the sampled tokens under the trainer (before this step's updates) and the engine.

    Args:
        trainer_M: log-probs without gradient.
        engine_M: log-probs that the engine recorded while sampling.
        sequence_M: number of each token's sequence, from 0.
        mode: `none` (all weights are 1), or `token_` or `sequence_` with `truncate` or `mask`.
        cap: largest ratio of trainer to engine.
    """
    gap_M = trainer_M - engine_M
    measured = UpdateStats(
        engine_gap=gap_M.abs().sum().item(),
        engine_gap_max=gap_M.abs().max().item(),
        engine_kl=(gap_M.clamp(max=MAX_LOG_RATIO).exp() - gap_M - 1).sum().item(),
    )
    weight_M, ratio_M, outside_M = _weights(gap_M, sequence_M, mode, cap)
    if mode == "none":
        return Correction(weight_M, measured)
    corrected = UpdateStats(
        ratio=ratio_M.sum().item(),
        ratio_max=ratio_M.max().item(),
        ratio_min=ratio_M.min().item(),
        corrected=outside_M.float().sum().item(),
    )
    return Correction(weight_M, measured + corrected)


def correction_weights(trainer_M: Tensor, engine_M: Tensor, sequence_M: Tensor, mode: str, cap: float) -> Tensor:
    """The weights of `correction` alone, without waiting for the device to measure anything."""
    return _weights(trainer_M - engine_M, sequence_M, mode, cap)[0]


def _weights(gap_M: Tensor, sequence_M: Tensor, mode: str, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, ratios of trainer to engine, and which of them are out of bounds."""
    if mode == "none":
        return torch.ones_like(gap_M), torch.ones_like(gap_M), torch.zeros_like(gap_M, dtype=torch.bool)
    level, _, action = mode.partition("_")
    log_ratio_M = gap_M if level == "token" else sequence_sum(gap_M, sequence_M)[sequence_M]
    bound = math.log(cap)
    ratio_M = log_ratio_M.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if action == "truncate":
        return ratio_M.clamp(max=cap), ratio_M, log_ratio_M > bound
    outside_M = log_ratio_M.abs() > bound
    return ratio_M * ~outside_M, ratio_M, outside_M
