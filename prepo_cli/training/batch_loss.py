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
from prepo_cli.training.mismatch import Correction, correction, correction_weights
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

    def tokens(self, logprob_M: Tensor) -> tuple[TokenLoss, Correction]:
        """The losses of all tokens, given their log-probs, and the measured mismatch."""
        batch, before_M = self.batch, self._before(logprob_M)
        corrected = correction(before_M, batch.engine_M, batch.sequence_M, self.correction_mode, self.correction_cap)
        return self._losses(logprob_M, before_M, corrected.weight_M), corrected

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
                before_C, engine_C = self._before(leaf_C, part), self.batch.engine_M[part]
                sequence_C = self.batch.sequence_M[part]
                weight_C = correction_weights(before_C, engine_C, sequence_C, self.correction_mode, self.correction_cap)
                result = self._losses(leaf_C, before_C, weight_C, part)
                return torch.autograd.grad(result.loss_M, leaf_C, share_M[part])[0]

        return gradient

    def _before(self, logprob_C: Tensor, part: slice = ALL) -> Tensor:
        """Log-probs before the step's updates."""
        return logprob_C.detach() if self.batch.old_M is None else self.batch.old_M[part]

    def _losses(self, logprob_C: Tensor, before_C: Tensor, weight_C: Tensor, part: slice = ALL) -> TokenLoss:
        """The losses of some of the batch's tokens."""
        batch = self.batch
        reference_C = None if batch.reference_M is None else batch.reference_M[part]
        factor_C = batch.factor_M[part] * weight_C
        return token_loss(logprob_C, before_C, factor_C, batch.sequence_M[part], self.options, reference_C)
