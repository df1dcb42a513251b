"""The clipped policy gradient, pure functions of token tensors.

PPO's clipped ratio with DAPO's separate bounds (2503.14476), sequence-level ratios of GSPO (2507.18071), the k3
estimate of the KL to a reference, and three ways to sum over tokens: `grpo` means within each sequence, then over
sequences; `dapo` means over all tokens; `dr_grpo` (2503.20783) divides by a constant length.

Each function returns a sum and the batch's divisor comes from the caller, so gradients of micro-batches add up to
the batch's own, whatever their sizes and whichever process they ran on. Axis letters: M trained tokens, in the order
of their sequences; N sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossOptions:
    """What does not change during a run."""

    loss_type: str = "dapo"
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    beta: float = 0.0
    importance_sampling_level: str = "token"
    max_completion_length: int = 1


@dataclass(frozen=True)
class TokenLoss:
    """Loss of each token [M] and what the log wants to know of it."""

    loss_M: Tensor
    kl_M: Tensor
    clipped_low_M: Tensor
    clipped_high_M: Tensor


def token_loss(
    logprob_M: Tensor,
    old_logprob_M: Tensor,
    advantage_M: Tensor,
    sequence_M: Tensor,
    options: LossOptions,
    reference_logprob_M: Tensor | None = None,
) -> TokenLoss:
    """The negated clipped objective of each token, plus beta times its KL to the reference.

    Args:
        logprob_M: under the policy being trained, with gradient.
        old_logprob_M: under the policy that sampled; no gradient.
        advantage_M: advantage times weight of each token.
        sequence_M: number of each token's sequence, from 0.
        reference_logprob_M: under the reference; needed where beta > 0.
    """
    log_ratio_M = logprob_M - old_logprob_M
    if options.importance_sampling_level == "sequence":
        mean_N = sequence_mean(log_ratio_M, sequence_M)
        # The gradient flows through each token's own log-prob, the value is the sequence's (GSPO-token).
        log_ratio_M = mean_N[sequence_M].detach() + logprob_M - logprob_M.detach()
    ratio_M = log_ratio_M.exp()
    clipped_M = ratio_M.clamp(1 - options.epsilon, 1 + options.epsilon_high)
    loss_M = -torch.minimum(ratio_M * advantage_M, clipped_M * advantage_M)
    kl_M = torch.zeros_like(loss_M)
    if reference_logprob_M is not None:
        gap_M = reference_logprob_M - logprob_M
        kl_M = gap_M.exp() - gap_M - 1
        loss_M = loss_M + options.beta * kl_M
    return TokenLoss(
        loss_M=loss_M,
        kl_M=kl_M.detach(),
        clipped_low_M=((ratio_M < 1 - options.epsilon) & (advantage_M < 0)).detach(),
        clipped_high_M=((ratio_M > 1 + options.epsilon_high) & (advantage_M > 0)).detach(),
    )


def aggregate(loss_M: Tensor, sequence_M: Tensor, options: LossOptions) -> Tensor:
    """The sum of token losses that, divided by `divisor` of the whole batch, is the batch's loss."""
    if options.loss_type == "grpo":
        return sequence_mean(loss_M, sequence_M).sum()
    return loss_M.sum()


def divisor(num_tokens: int, num_sequences: int, options: LossOptions) -> float:
    """What the batch's summed loss is divided by: its tokens, its sequences, or sequences times full length."""
    by_type = {
        "dapo": num_tokens,
        "grpo": num_sequences,
        "dr_grpo": num_sequences * options.max_completion_length,
    }
    return float(max(by_type[options.loss_type], 1))


def sequence_sum(values_M: Tensor, sequence_M: Tensor) -> Tensor:
    """Sum over each sequence's tokens [N]; 0 for a sequence without tokens."""
    count = int(sequence_M.max()) + 1 if len(sequence_M) else 0
    return values_M.new_zeros(count).index_add(0, sequence_M, values_M)


def sequence_mean(values_M: Tensor, sequence_M: Tensor) -> Tensor:
    """Mean over each sequence's tokens [N]; 0 for a sequence without tokens."""
    total_N = sequence_sum(values_M, sequence_M)
    return total_N / torch.bincount(sequence_M, minlength=len(total_N)).clamp(min=1)
