"""The loss types: how a batch's token losses are averaged. A new type is one entry of `LOSSES`.

Each aggregates losses to a sum and separately computes the divisor of the whole batch, so the gradients of
micro-batches add up to the batch's gradient, whatever their sizes and whichever process computes them. Only tensor
methods are used: torch is not imported here. Axis letters: M trained tokens, in the order of their sequences;
N sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossType:
    """One way to average token losses.

    `aggregate` takes losses [M] and the index of each token's sequence [M] and returns a scalar sum. `divisor` takes
    the batch's number of tokens, its number of sequences and the maximum completion length.
    """

    description: str
    paper: str
    aggregate: Callable[[Tensor, Tensor], Tensor]
    divisor: Callable[[int, int, int], float]


def sequence_sum(values_M: Tensor, sequence_M: Tensor) -> Tensor:
    """Sum over each sequence's tokens [N]; 0 for a sequence without tokens.

    >>> import torch
    >>> sequence_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]))
    tensor([3., 3.])
    """
    count = int(sequence_M.max()) + 1 if len(sequence_M) else 0
    return values_M.new_zeros(count).index_add(0, sequence_M, values_M)


def sequence_mean(values_M: Tensor, sequence_M: Tensor) -> Tensor:
    """Mean over each sequence's tokens [N]; 0 for a sequence without tokens.

    >>> import torch
    >>> sequence_mean(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]))
    tensor([1.5000, 3.0000])
    """
    total_N = sequence_sum(values_M, sequence_M)
    return total_N / sequence_M.bincount(minlength=len(total_N)).clamp(min=1)


def sum_of_tokens(loss_M: Tensor, sequence_M: Tensor) -> Tensor:
    """All tokens count equally."""
    return loss_M.sum()


def sum_of_sequence_means(loss_M: Tensor, sequence_M: Tensor) -> Tensor:
    """All sequences count equally."""
    return sequence_mean(loss_M, sequence_M).sum()


LOSSES: dict[str, LossType] = {
    "dapo": LossType(
        "mean over all tokens of the batch", "2503.14476", sum_of_tokens, lambda tokens, sequences, longest: tokens
    ),
    "grpo": LossType(
        "mean over each sequence's tokens, then over sequences",
        "2402.03300",
        sum_of_sequence_means,
        lambda tokens, sequences, longest: sequences,
    ),
    "dr_grpo": LossType(
        "sum over tokens divided by number of sequences x max_completion_length",
        "2503.20783",
        sum_of_tokens,
        lambda tokens, sequences, longest: sequences * longest,
    ),
}
