"""The loss of a micro-batch as a function of its log-probs, and its gradient, known as soon as a token's log-prob is.

The output matrix has the logits at hand only while it computes log-probs. With the loss's gradient at hand too it need
not compute them twice (policy/output_matrix.py). All losses allow that but those that compare whole sequences, whose
gradient depends on every log-prob of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prepo_cli.policy.output_matrix import Upstream
from prepo_cli.training.loss import LossOptions, TokenLoss, aggregate, token_loss
from prepo_cli.training.mismatch import Correction, correction
from prepo_cli.training.sample import MicroBatch

ALL = slice(None)


@dataclass(frozen=True)
class BatchLoss:
    """Both the loss and the correction of the engine's mismatch; `factor` is what the summed loss is multiplied by."""

    batch: MicroBatch
    options: LossOptions
    correction_mode: str
    correction_cap: float
    factor: float

    def tokens(self, logprob_C: Tensor, part: slice = ALL) -> tuple[TokenLoss, Correction]:
        """The losses of some of the batch's tokens, given their log-probs."""
        batch, sequence_C = self.batch, self.batch.sequence_M[part]
        before_C = logprob_C.detach() if batch.old_M is None else batch.old_M[part]
        corrected = correction(before_C, batch.engine_M[part], sequence_C, self.correction_mode, self.correction_cap)
        reference_C = None if batch.reference_M is None else batch.reference_M[part]
        factor_C = batch.factor_M[part] * corrected.weight_M
        return token_loss(logprob_C, before_C, factor_C, sequence_C, self.options, reference_C), corrected

    def sum(self, loss_M: Tensor) -> Tensor:
        """The summed loss of all tokens, not yet multiplied by `factor`."""
        return aggregate(loss_M, self.batch.sequence_M, self.options)

    @property
    def upstream(self) -> Upstream | None:
        """The gradient with respect to log-probs; None if it depends on other tokens' log-probs."""
        if self.options.importance_sampling_level == "sequence" or self.correction_mode.startswith("sequence"):
            return None
        with torch.enable_grad():
            loss_M = torch.zeros_like(self.batch.factor_M, requires_grad=True)
            (share_M,) = torch.autograd.grad(self.sum(loss_M) * self.factor, loss_M)

        def gradient(logprob_C: Tensor, part: slice) -> Tensor:
            with torch.enable_grad():
                leaf_C = logprob_C.detach().requires_grad_()
                result, _ = self.tokens(leaf_C, part)
                return torch.autograd.grad(result.loss_M, leaf_C, share_M[part])[0]

        return gradient
