"""Sampling tokens: one uniform number per rollout and position, independent of the batch.

The numbers come from a counter-based generator (splitmix64 of the rollout's seed and the position), so a rollout
depends on its own seed alone. Tokens are drawn by inverting the cumulative distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniforms(seeds_B: npt.NDArray[np.uint64], position_B: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each seed, at its position in the seed's stream.

    >>> uniforms(np.array([1234567], dtype=np.uint64), 0)
    array([0.35007954])
    """
    with np.errstate(over="ignore"):
        z = seeds_B + _GOLDEN * np.uint64(position_B + 1)
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(
    logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor | None, uniform_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token for each row.

    Log-probs and entropies (nats) are of softmax(logits / temperature) over the full vocabulary, even if `top_p_B`
    restricts what is drawn. At temperature 0 the most likely token is taken, with statistics at temperature 1.

    Returns:
        tokens [B], and float32 log-probs [B] and entropies [B]; a row whose logits are NaN has log-prob NaN.
    """
    greedy_B = temperature_B == 0
    scaled_BV = logits_BV.float() / torch.where(greedy_B, 1.0, temperature_B)[:, None]
    logprob_BV = torch.log_softmax(scaled_BV, dim=-1)
    prob_BV = logprob_BV.exp()
    entropy_B = -(prob_BV * logprob_BV.clamp(min=-1e4)).sum(dim=-1)
    drawn_BV = prob_BV if top_p_B is None else nucleus(prob_BV, top_p_B)
    cumulative_BV = drawn_BV.cumsum(dim=-1)
    total_B = cumulative_BV[:, -1].double()
    threshold_B = (uniform_B * total_B).float()
    threshold_B = torch.minimum(threshold_B, torch.nextafter(total_B.float(), torch.zeros_like(threshold_B)))
    token_B = torch.searchsorted(cumulative_BV, threshold_B[:, None], right=True)[:, 0]
    token_B = token_B.clamp(max=logits_BV.shape[1] - 1)  # NaN logits would end beyond the vocabulary
    if greedy_B.any():
        token_B = torch.where(greedy_B, logits_BV.argmax(dim=-1), token_B)
    return token_B, logprob_BV.gather(1, token_B[:, None])[:, 0], entropy_B


def nucleus(prob_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Set to 0 the probabilities outside the smallest set that reaches top_p; the largest one always stays.

    >>> nucleus(torch.tensor([[0.5, 0.125, 0.375]]), torch.tensor([0.75]))
    tensor([[0.5000, 0.0000, 0.3750]])
    """
    sorted_BV, order_BV = prob_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    kept_BV = sorted_BV.masked_fill(before_BV >= top_p_B[:, None], 0.0)
    return torch.zeros_like(prob_BV).scatter_(1, order_BV, kept_BV)
