"""The pass through the output matrix, forward and backward, against `log_softmax` of all logits at once.

`told` is how training runs: the loss's gradient is known with the log-prob, and logits are computed once. `untold` is
what sequence-level importance ratios need: the backward pass computes them again. The shape is Qwen2.5-0.5B's:
vocabulary 151,936, width 896, float32. `make bench` measures 256 tokens, `make bench-large` 4 x 1,024.

    python -m benchmarks --only output_matrix
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.functional import linear

from benchmarks.paired import Claim, Found, timed
from prepo_cli.policy.output_matrix import Head, Scaling, Tokens, token_statistics

CLAIMS = (
    Claim("output matrix: time against all logits at once", "told", "naive", limit=1.1),
    Claim("output matrix: memory against all logits at once", "told", "naive", "bytes", limit=0.1),
    Claim("output matrix, gradient not told ahead: time against all logits at once", "untold", "naive"),
)
SIZES: dict[str, dict[str, Any]] = {
    "full": {"tokens": 256, "vocabulary": 151_936, "width": 896},
    "large": {"tokens": 4096, "vocabulary": 151_936, "width": 896},
    "quick": {"tokens": 512, "vocabulary": 32_000, "width": 512},
}


def measure(variant: str, tokens: int, vocabulary: int, width: int) -> Found:
    """Seconds, and bytes beyond weights, hidden states and their gradients so far, of log-probs and gradients."""
    torch.manual_seed(0)
    weight_VD = Parameter(torch.randn(vocabulary, width) * 0.02)
    states_MD = Parameter(torch.randn(tokens, width))
    weight_VD.grad, states_MD.grad = torch.zeros_like(weight_VD), torch.zeros_like(states_MD)
    target_M = torch.randint(0, vocabulary, (tokens,))
    temperature_M, gradient_M = torch.full((tokens,), 0.9), torch.randn(tokens)

    def work() -> None:
        if variant == "naive":
            logits_MV = linear(states_MD, weight_VD) / temperature_M[:, None]
            logprob_M = torch.log_softmax(logits_MV, dim=-1).gather(1, target_M[:, None])[:, 0]
        else:
            upstream = (lambda logprob_C, part: gradient_M[part]) if variant == "told" else None
            head, inputs = Head(weight_VD, None, Scaling()), Tokens(states_MD, target_M, temperature_M)
            logprob_M, _ = token_statistics(head, inputs, upstream=upstream)
        logprob_M.backward(gradient_M)

    return timed(work, warm_up=False)
