"""The pass through the output matrix: log-probs, entropies and their gradients, with few logits in memory at a time.

The logits of a whole batch would be the largest tensor of an update by far. So they are computed in chunks, each of
which becomes in place what is needed of it. With z the logits as the architecture scales and caps them, T the sampling
temperature and k the chosen token,

    d log p_k / d z = (one_hot(k) - softmax(z / T)) / T.

Where the matrix is trained, its gradient sums over tokens, each times the loss's gradient with respect to its
log-prob. If the caller can tell that gradient from the log-prob alone (`Upstream`), it is used while the logits are
there. Autograd has the last word: if it passes another gradient to the backward pass, and if the caller can't tell it,
the backward pass computes the logits again. Where the matrix isn't trained, a token's gradient is a vector of the
model's width, kept until its factor is known, and the logits are never computed again.

Products are computed in the dtype of the model, statistics and sums in float32. Axis letters: M tokens, C tokens of a
chunk, R of a block of rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 2**25
"""Logits held at once (128 MiB in float32)."""
CPU_ROWS = 1024
"""Tokens of a chunk on a CPU, where more make products no faster, and small vocabularies' logits stay in its caches."""
BLOCK_ELEMENTS = 2**19
"""Logits that a CPU turns into a softmax at once: few enough to stay in its cache."""
PRODUCT_ROWS = 2**15
"""Rows of the output matrix whose gradient is added at once, where products are not in float32."""

Upstream = Callable[[Tensor, slice], Tensor]
"""The loss's gradient with respect to log-probs [C]; the slice tells which of all M tokens they belong to."""


@dataclass(frozen=True)
class Scaling:
    """What an architecture does to its logits: a factor (Cohere, Granite), then a cap (Gemma)."""

    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> Scaling:
        """As a model's configuration states it."""
        scale = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        factor = (1.0 if scale is None else scale) / (1.0 if divisor is None else divisor)
        return cls(float(factor), getattr(config, "final_logit_softcapping", None))

    def apply(self, logits: Tensor) -> Tensor:
        """The logits as the model returns them."""
        if self.factor != 1:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def apply_(self, logits: Tensor) -> Tensor | None:
        """Scale in place; the derivative of the cap, if there is one."""
        if self.factor != 1:
            logits.mul_(self.factor)
        if self.cap is None:
            return None
        logits.div_(self.cap).tanh_()
        slope = 1 - logits.square()
        logits.mul_(self.cap)
        return slope


@dataclass
class Head:
    """The output matrix [V, D], its bias [V] or None, and what follows it."""

    weight_VD: Tensor
    bias_V: Tensor | None
    scaling: Scaling


@dataclass
class Tokens:
    """Hidden states [M, D] that predict the chosen tokens [M], and the temperature of each."""

    states_MD: Tensor
    target_M: Tensor
    temperature_M: Tensor


@dataclass
class Gradients:
    """Sums of the loss's gradients; None for what isn't trained. The states' are in their own dtype."""

    states_MD: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None

    @classmethod
    def zeros(cls, head: Head, tokens: Tokens, needed: tuple[bool, bool, bool]) -> Gradients:
        """Nothing added yet."""
        states, weight, bias = needed
        device = tokens.states_MD.device
        return cls(
            torch.empty_like(tokens.states_MD) if states else None,
            torch.zeros(head.weight_VD.shape, dtype=torch.float32, device=device) if weight else None,
            torch.zeros(len(head.weight_VD), dtype=torch.float32, device=device) if bias else None,
        )

    def add(self, head: Head, tokens: Tokens, part: slice, error_CV: Tensor, factor_C: Tensor) -> None:
        """Add a chunk's: `error_CV` is softmax minus one-hot, `factor_C` what each token's is multiplied by."""
        error = error_CV.to(head.weight_VD.dtype)
        if self.states_MD is not None:
            torch.mm(error, head.weight_VD, out=self.states_MD[part]).mul_(factor_C[:, None])
        if self.weight_VD is not None:
            scaled_CD = (tokens.states_MD[part] * factor_C[:, None]).to(error.dtype)
            if error.dtype == torch.float32:
                self.weight_VD.addmm_(error.t(), scaled_CD)
            else:
                for some in range(
                    0, len(self.weight_VD), PRODUCT_ROWS
                ):  # a product of all rows would be as large again
                    rows = slice(some, some + PRODUCT_ROWS)
                    self.weight_VD[rows] += error[:, rows].t() @ scaled_CD
        if self.bias_V is not None:
            self.bias_V += factor_C @ error_CV


def token_statistics(
    head: Head, tokens: Tokens, with_entropy: bool = False, upstream: Upstream | None = None
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [M], differentiable, and if requested entropies [M] in nats, which are not; both float32."""
    device = tokens.states_MD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight_VD.dtype
    bias_V = None if head.bias_V is None else head.bias_V.to(dtype)
    result: tuple[Tensor, Tensor | None] = _TokenStatistics.apply(  # type: ignore[no-untyped-call]  # torch does not annotate it
        tokens.states_MD.to(dtype),
        head.weight_VD.to(dtype),
        bias_V,
        tokens.target_M,
        tokens.temperature_M,
        head.scaling,
        with_entropy,
        upstream if torch.is_grad_enabled() else None,
    )
    return result


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_M: Tensor,
        temperature_M: Tensor,
        scaling: Scaling,
        with_entropy: bool,
        upstream: Upstream | None,
    ) -> tuple[Tensor, Tensor | None]:
        head, tokens = Head(weight_VD, bias_V, scaling), Tokens(states_MD, target_M, temperature_M)
        needed = ctx.needs_input_grad[:3]
        ctx.only_states = needed == (True, False, False)
        ctx.gradients = ctx.told_M = None
        if ctx.only_states or (upstream is not None and any(needed)):
            ctx.gradients = Gradients.zeros(head, tokens, needed)
            ctx.told_M = torch.ones_like(temperature_M)
        logprob_M = torch.empty_like(temperature_M)
        entropy_M = torch.empty_like(temperature_M) if with_entropy else None
        for part, logits_CV in _logits(head, tokens):
            _reduce(logits_CV, tokens, part, scaling, logprob_M, entropy_M, with_error=ctx.gradients is not None)
            if ctx.gradients is not None:
                if not ctx.only_states and upstream is not None:
                    ctx.told_M[part] = upstream(logprob_M[part], part)
                factor_C = -scaling.factor * ctx.told_M[part] / temperature_M[part]
                ctx.gradients.add(head, tokens, part, logits_CV, factor_C)
        ctx.scaling = scaling
        ctx.save_for_backward(states_MD, weight_VD, bias_V, target_M, temperature_M)
        if entropy_M is not None:
            ctx.mark_non_differentiable(entropy_M)
        return logprob_M, entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # not referred to any more, autograd need not copy them
        states_MD, weight_VD, bias_V, target_M, temperature_M = ctx.saved_tensors
        if gradients is not None and ctx.only_states:
            gradients.states_MD.mul_(gradient_M[:, None])
        elif gradients is None or not torch.equal(gradient_M, ctx.told_M):
            head, tokens = Head(weight_VD, bias_V, ctx.scaling), Tokens(states_MD, target_M, temperature_M)
            gradients = Gradients.zeros(head, tokens, ctx.needs_input_grad[:3])
            for part, logits_CV in _logits(head, tokens):
                _reduce(logits_CV, tokens, part, ctx.scaling, with_error=True)
                factor_C = -ctx.scaling.factor * gradient_M[part] / temperature_M[part]
                gradients.add(head, tokens, part, logits_CV, factor_C)
        weight = None if gradients.weight_VD is None else gradients.weight_VD.to(weight_VD.dtype)
        bias = None if gradients.bias_V is None else gradients.bias_V.to(weight_VD.dtype)
        return gradients.states_MD, weight, bias, None, None, None, None, None


def _logits(head: Head, tokens: Tokens) -> Iterator[tuple[slice, Tensor]]:
    """Raw logits [C, V] of one chunk after the other in float32, in memory that is used again for the next."""
    count, vocab_size = len(tokens.target_M), len(head.weight_VD)
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    if tokens.states_MD.device.type == "cpu":
        size = min(size, CPU_ROWS)
    own_CV = head.weight_VD.new_empty(min(size, count), vocab_size)
    logits_CV = own_CV if own_CV.dtype == torch.float32 else torch.empty_like(own_CV, dtype=torch.float32)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        length = part.stop - start
        if head.bias_V is None:
            torch.mm(tokens.states_MD[part], head.weight_VD.t(), out=own_CV[:length])
        else:
            torch.addmm(head.bias_V, tokens.states_MD[part], head.weight_VD.t(), out=own_CV[:length])
        if own_CV is not logits_CV:
            logits_CV[:length].copy_(own_CV[:length])
        yield part, logits_CV[:length]


def _reduce(
    logits_CV: Tensor,
    tokens: Tokens,
    part: slice,
    scaling: Scaling,
    logprob_M: Tensor | None = None,
    entropy_M: Tensor | None = None,
    with_error: bool = False,
) -> None:
    """Write a chunk's log-probs and entropies; with `with_error` turn its logits into softmax minus one-hot, in place.

    Where the architecture caps its logits, the error is multiplied by the cap's derivative.
    """
    on_cpu = logits_CV.device.type == "cpu"
    height = max(1, BLOCK_ELEMENTS // logits_CV.shape[1]) if on_cpu else max(1, len(logits_CV))
    for start in range(0, len(logits_CV), height):
        rows = slice(start, start + height)
        place = slice(part.start + start, min(part.start + start + height, part.stop))
        block_RV, target_R1 = logits_CV[rows], tokens.target_M[place, None]
        slope_RV = scaling.apply_(block_RV)
        block_RV.div_(tokens.temperature_M[place, None])
        block_RV.sub_(block_RV.amax(dim=1, keepdim=True))
        chosen_R1 = block_RV.gather(1, target_R1)
        exp_RV = block_RV.exp() if entropy_M is not None else block_RV.exp_()
        total_R1 = exp_RV.sum(dim=1, keepdim=True)
        normalizer_R1 = total_R1.log()
        if logprob_M is not None:
            logprob_M[place] = (chosen_R1 - normalizer_R1)[:, 0]
        if entropy_M is not None:
            expected_R = torch.linalg.vecdot(exp_RV, block_RV) / total_R1[:, 0]
            entropy_M[place] = normalizer_R1[:, 0] - expected_R
        if with_error:
            torch.div(exp_RV, total_R1, out=block_RV)
            block_RV.scatter_add_(1, target_R1, torch.full_like(chosen_R1, -1))
            if slope_RV is not None:
                block_RV.mul_(slope_RV)
