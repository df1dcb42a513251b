"""The clipped policy gradient, pure functions of token tensors.

PPO's clipped ratio with DAPO's separate bounds (2503.14476), sequence-level ratios of GSPO (2507.18071) and the k3
estimate of the KL to a reference. prepo_cli/losses.py defines how token losses are averaged. Axis
letters: M trained tokens, in the order of their sequences; N sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prepo_cli.losses import LOSSES, sequence_mean
from prepo_cli.sections import TrainingConfig


@dataclass(frozen=True)
class LossOptions:
    """The settings that the loss depends on."""

    loss_type: str = "dapo"
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    beta: float = 0.0
    importance_sampling_level: str = "token"
    max_completion_length: int = 1

    @classmethod
    def of(cls, training: TrainingConfig) -> LossOptions:
        """The options of a run."""
        return cls(
            loss_type=training.loss_type,
            epsilon=training.epsilon,
            epsilon_high=training.epsilon_high,
            beta=training.beta,
            importance_sampling_level=training.importance_sampling_level,
            max_completion_length=training.max_completion_length,
        )


@dataclass(frozen=True)
class TokenLoss:
    """The loss of each token [M], its KL to the reference, and where its ratio was clipped."""

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

    A ratio of 1.65 is clipped at 1.28 where the advantage is positive:

    >>> result = token_loss(torch.tensor([-0.5]), torch.tensor([-1.0]), torch.ones(1), torch.tensor([0]), LossOptions())
    >>> result.loss_M, result.clipped_high_M
    (tensor([-1.2800]), tensor([True]))

    Args:
        logprob_M: under the policy being trained, with gradient.
        old_logprob_M: under the policy that sampled; no gradient.
        advantage_M: advantage times weight of each token.
        sequence_M: number of each token's sequence, from 0.
        reference_logprob_M: under the reference; needed if beta > 0.
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
    return LOSSES[options.loss_type].aggregate(loss_M, sequence_M)


def divisor(num_tokens: int, num_sequences: int, options: LossOptions) -> float:
    """What the batch's summed loss is divided by; at least 1.

    >>> divisor(300, 4, LossOptions("dapo")), divisor(300, 4, LossOptions("dr_grpo", max_completion_length=100))
    (300.0, 400.0)
    """
    loss_type = LOSSES[options.loss_type]
    return float(max(loss_type.divisor(num_tokens, num_sequences, options.max_completion_length), 1))
