"""A training step against TRL's, as in benchmarks/against_trl.py, of a Qwen2 of 15 million random parameters.

Its vocabulary has 32,000 tokens, its completions 256. `make bench` measures 2 prompts with 8 rollouts, `make
bench-large` 16.

    python -m benchmarks --only against_trl_15m
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.against_trl import of_model
from benchmarks.paired import Claim, Found
from benchmarks.turns import Turn
from prepo_cli.models import EMBEDDED_MODEL

CLAIMS = (
    Claim("against TRL, 15M parameters: step", "prepo", "trl", limit=0.6),
    Claim("against TRL, 15M parameters: generation", "prepo", "trl", "generate"),
    Claim("against TRL, 15M parameters: update", "prepo", "trl", "update"),
    Claim("against TRL, 15M parameters: peak memory", "prepo", "trl", "bytes"),
)
FULL = {"prompts": 2, "longest": 256, "trl_rows": 16}
SIZES: dict[str, dict[str, Any]] = {
    "full": FULL,
    "large": FULL | {"prompts": 16},
}
SHAPE = {
    "vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip


def steps(variant: str, turn: Turn, rounds: int, **size: int) -> list[Found]:
    """What each step takes, the first one included: it is too long for a warm-up to matter."""
    return of_model(variant, turn, rounds, save_model, left_out=0, **size)


def save_model(folder: Path) -> Path:
    """Save the model, with the embedded one's tokenizer; returns its folder."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from prepo_cli.policy.loading import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(EMBEDDED_MODEL))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"
