"""Generation with the engine `hf` against transformers' `generate`, at contexts of 1K, 4K and 16K tokens.

A Qwen2 with random weights completes random prompts. How long a completion becomes is drawn from a lognormal
distribution, as lengths in training are: a few are several times as long as the median, and one fills the context.
`generate` gets all rows as one batch and goes on until the longest completion ends, since it knows no limit by row.
Tokens beyond a row's length count for neither. The size `quick` has a quarter of each context.

    python -m benchmarks --only generation
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.paired import Claim, Found, timed
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.machine import keep_freed_memory
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from strategies.types import IntArray, derive_seed

CONTEXTS = ("1K", "4K", "16K")
CLAIMS = (
    *(Claim(f"generation at {size} contexts: time against transformers' generate", f"hf {size}", f"generate {size}")
      for size in CONTEXTS),
    *(Claim(f"generation at {size} contexts", f"hf {size}", None, "tokens/s") for size in CONTEXTS),
)  # fmt: skip
SHAPE = {
    "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16_384, "tie_word_embeddings": True,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "1K": {"rows": 16, "prompt": 256, "longest": 768},
        "4K": {"rows": 4, "prompt": 3072, "longest": 1024},
        "16K": {"rows": 1, "prompt": 16_128, "longest": 256},
    },
    "quick": {
        "1K": {"rows": 4, "prompt": 128, "longest": 128},
        "4K": {"rows": 2, "prompt": 896, "longest": 128},
        "16K": {"rows": 1, "prompt": 3968, "longest": 128},
    },
}
MEDIAN, SPREAD = 0.25, 0.8
"""Of completion lengths: the median as a part of the longest, and the deviation of their logarithm."""


def measure(variant: str, **contexts: dict[str, int]) -> Found:
    """Seconds, and completion tokens per second, of completing all prompts."""
    name, _, context = variant.partition(" ")
    size = contexts[context]
    keep_freed_memory()  # as for any policy that is loaded
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
    prompts_NP = np.random.default_rng(0).integers(2, SHAPE["vocab_size"], (size["rows"], size["prompt"]))
    limits_N = lengths(size["rows"], size["longest"])
    complete = _engine(model) if name == "hf" else partial(_generate, model)
    found = timed(lambda: complete(prompts_NP, limits_N), warm_up=False)
    return found | {"tokens/s": float(limits_N.sum()) / found["seconds"]}


def lengths(rows: int, longest: int) -> IntArray:
    """Completion lengths [N] with a heavy tail; the first is the longest."""
    drawn_N = np.random.default_rng(0).lognormal(np.log(MEDIAN * longest), SPREAD, rows)
    lengths_N = drawn_N.clip(1, longest).astype(np.int64)
    lengths_N[0] = longest
    return lengths_N


def _engine(model: Any) -> Callable[[IntArray, IntArray], None]:
    no_token = frozenset({SHAPE["vocab_size"]})  # would end a completion, but is never drawn
    policy = Policy(model, None, TokenScorer(model), torch.device("cpu"), no_token, 0)  # type: ignore[arg-type]
    engine = HfEngine(policy)

    def complete(prompts_NP: IntArray, limits_N: IntArray) -> None:
        requests = [
            Request(prompt_P.tolist(), [derive_seed(0, n)], 1.0, int(limit))
            for n, (prompt_P, limit) in enumerate(zip(prompts_NP, limits_N, strict=True))
        ]
        generated = engine.generate(requests)
        assert [len(rollout.token_ids) for group in generated for rollout in group] == limits_N.tolist()

    return complete


def _generate(model: Any, prompts_NP: IntArray, limits_N: IntArray) -> None:
    ids_NP, longest = torch.from_numpy(prompts_NP), int(limits_N.max())
    result_NL = model.generate(
        input_ids=ids_NP, attention_mask=torch.ones_like(ids_NP), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=longest, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    assert result_NL.shape[1] == ids_NP.shape[1] + longest
