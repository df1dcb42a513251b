"""The pass through the output matrix, forward and backward, for a sequence of 32,768 tokens: memory.

Logits are held a chunk at a time, so what counts besides is proportional to the width: the gradients of the matrix and
of the hidden states. `make bench` measures a vocabulary of 32,000 and a width of 128, `make bench-large` those of
Qwen2.5-0.5B, 151,936 and 896.

    python -m benchmarks --only long_sequence
"""

from __future__ import annotations

from typing import Any

from benchmarks import output_matrix
from benchmarks.paired import Claim

CLAIMS = (
    Claim("output matrix, 32,768 tokens: memory beyond weights and hidden states", "told", None, "bytes", limit=2e9),
)
SIZES: dict[str, dict[str, Any]] = {
    "full": {"tokens": 32_768, "vocabulary": 32_000, "width": 128},
    "large": {"tokens": 32_768, "vocabulary": 151_936, "width": 896},
    "quick": {"tokens": 4096, "vocabulary": 32_000, "width": 64},
}
measure = output_matrix.measure
