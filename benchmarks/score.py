"""`score-ppl` against bare forward passes of the same model over as many tokens.

The prompts have about 300 tokens, with the spread of real ones. `prepo` is the whole command: reading, rendering,
batching, scoring and writing. `bare` computes the logits of rows that all have one length and are tokenized before.

    python -m benchmarks --only score
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.paired import Claim, Found, timed
from prepo_cli import score_ppl
from prepo_cli.data.loading import load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.policy.loading import load_policy
from prepo_cli.sections import ModelConfig

CLAIMS = (Claim("score-ppl: time against bare forward passes", "prepo", "bare", limit=1 / 0.85),)
SIZES: dict[str, dict[str, Any]] = {"full": {"rows": 800}, "quick": {"rows": 60}}
MEAN_CHARACTERS, SPREAD = 1000, 0.5
BARE_LENGTH, BARE_ROWS = 300, (4, 16)
"""Tokens of a row, and rows in a batch, of which the fastest counts."""


def measure(variant: str, rows: int) -> Found:
    """Seconds of scoring all prompts."""
    if variant == "prepo":
        with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
            data = Path(folder) / "data.jsonl"
            data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts(rows)), encoding="utf-8")
            return {"seconds": float(score_ppl(str(data), output=Path(folder) / "scored.jsonl")["seconds"])}
    policy = load_policy(ModelConfig())
    model, rendered = policy.model, Renderer(policy.tokenizer)
    tokens = sum(len(rendered([{"role": "user", "content": text}]).token_ids) for text in prompts(rows))
    length = min(BARE_LENGTH, model.config.max_position_embeddings)
    ids_BL = torch.randint(2, model.config.vocab_size, (round(tokens / length), length))

    @torch.inference_mode()
    def forward(ids_BL: torch.Tensor, size: int) -> None:
        for part in ids_BL.split(size):
            model(input_ids=part, use_cache=False)

    model(input_ids=ids_BL[:1], use_cache=False)  # the first pass costs more
    some_BL = ids_BL[: 8 * max(BARE_ROWS)]
    fastest = min(BARE_ROWS, key=lambda size: timed(lambda: forward(some_BL, size))["seconds"])
    return timed(lambda: forward(ids_BL, fastest), warm_up=False)


def prompts(count: int) -> list[str]:
    """Texts of different lengths, made of the embedded task's."""
    rng = np.random.default_rng(0)
    data = load_prompts("embedded")
    texts = [str(data.given(i)) for i in range(200)]
    found = []
    for size in MEAN_CHARACTERS * rng.lognormal(-(SPREAD**2) / 2, SPREAD, count):
        text = ""
        while len(text) < size:
            text += f"{texts[rng.integers(len(texts))]} "
        found.append(text)
    return found
