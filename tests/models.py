"""Small random models of real architectures, and the slow, obvious way to score a sequence."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from prepo_cli.config import ASSETS
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer

VOCAB = 23
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**COMMON, head_dim=8),
    "llama": LlamaConfig(**COMMON, tie_word_embeddings=False),
    "gemma2": Gemma2Config(**COMMON, head_dim=4, sliding_window=8, final_logit_softcapping=3.0),
}
MISTRAL = MistralConfig(**COMMON, sliding_window=8)
"""Not in all tests: a window of attention that torch's attention computes too."""


def make_policy(architecture: str = "qwen2", seed: int = 0, eos: tuple[int, ...] = (1,), spread: float = 0.4) -> Policy:
    """A random float32 model whose distributions are neither flat nor sharp."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy(MISTRAL if architecture == "mistral" else CONFIGS[architecture]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, spread)
    model.eval()
    return Policy(model, None, TokenScorer(model), torch.device("cpu"), frozenset(eos), 0)


def naive_scores(
    model: Any, ids: list[int], start: int, end: int, temperature: float
) -> tuple[list[float], list[float]]:
    """Log-probs and entropies of tokens start..end-1, one sequence, float64, from the model's own full logits."""
    double = type(model)(model.config).double()
    double.load_state_dict(model.state_dict())
    double.eval()
    with torch.no_grad():
        logits = double(input_ids=torch.tensor([ids])).logits[0] / temperature
    logprobs, entropies = [], []
    for position in range(max(start, 1), end):
        row = logits[position - 1]
        p = torch.exp(row - row.max())
        p = p / p.sum()
        logprobs.append(float(torch.log(p[ids[position]])))
        entropies.append(float(-(p * torch.log(p)).sum()))
    return logprobs, entropies


def save_model(architecture: str, folder: Path, **changes: Any) -> Path:
    """A small random model of an architecture with the embedded tokenizer, in the hub's format."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(ASSETS / "model"))
    shape = COMMON | {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    shape |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    known = CONFIGS[architecture]
    config = type(known)(**(known.to_diff_dict() | shape | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
