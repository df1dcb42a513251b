"""Random models of shapes that vLLM's CPU kernels support, and what the tests compare engines with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from prepo_cli.engines.base import Request, Rollout
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from strategies.types import derive_seed

VOCAB = 48
CONTEXT = 256
EOS = frozenset({1, 4})
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2-tied": Qwen2Config(**COMMON, tie_word_embeddings=True),
    "llama": LlamaConfig(**COMMON, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**COMMON, head_dim=32, tie_word_embeddings=False),
}
LONG = [5 + i * 7 % 40 for i in range(150)]
PROMPTS: list[list[int]] = [[5, 6, 7], LONG, [*LONG[:140], 9, 3], [8, 9, 10, 11, 12, 13, 14, 15, 16, 3, 2], [2]]


def make_policy(architecture: str, eos: frozenset[int] = EOS) -> Policy:
    """A random float32 model."""
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture])
    model.eval()
    policy = Policy(model, None, TokenScorer(model), torch.device("cpu"), eos, 0)
    shake(policy, 0)
    return policy


def shake(policy: Policy, seed: int) -> None:
    """New random weights for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.2, generator=generator)
            else:
                parameter.normal_(1.0, 0.2, generator=generator)


def save(policy: Policy, folder: Path) -> Path:
    """The model on disk, with a generation config that would change the sampling if an engine used it."""
    policy.model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [1, 7, 11], "top_k": 2, "repetition_penalty": 1.5, "temperature": 0.3}', encoding="utf-8"
    )
    return folder


def weights(policy: Policy) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights under the hub's names, the tied output matrix included."""
    yield from policy.model.state_dict().items()


def requests(n: int, temperature: float = 1.0, max_tokens: int = 12, top_p: float = 1.0) -> list[Request]:
    return [
        Request(prompt, [derive_seed("t", i, j) for j in range(n)], temperature, max_tokens, top_p)
        for i, prompt in enumerate(PROMPTS)
    ]


def tokens(groups: list[list[Rollout]]) -> list[list[list[int]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


def greedy(policy: Policy, max_tokens: int = 12) -> list[list[list[int]]]:
    """The trainer's own greedy decoding of `PROMPTS`."""
    return tokens(HfEngine(policy, 100_000).generate(requests(1, 0.0, max_tokens)))


def largest_gap(policy: Policy, asked: Sequence[Request], groups: list[list[Rollout]]) -> float:
    """Largest difference between the engine's log-probs and the trainer's."""
    rows, spans, temperatures, found = [], [], [], []
    for request, group in zip(asked, groups, strict=True):
        for rollout in group:
            start = len(request.prompt_ids)
            rows.append([*request.prompt_ids, *rollout.token_ids])
            spans.append((start, start + len(rollout.token_ids)))
            temperatures.append(request.temperature or 1.0)
            found.append(rollout.logprobs)
    exact = [logprobs for logprobs, _ in policy.score(rows, spans, temperatures, 100_000)]
    assert [len(a) for a in exact] == [len(b) for b in found]
    return max(float(np.abs(a - b).max()) for a, b in zip(exact, found, strict=True))


def first_token_fits(policy: Policy, prompt: list[int], temperature: float, drawn: Sequence[int]) -> bool:
    """Whether first tokens follow softmax(logits / T): a chi-square test that a correct engine fails once in 1e5."""
    with torch.no_grad():
        p = torch.softmax(policy.model(torch.tensor([prompt])).logits[0, -1].double() / temperature, -1).numpy()
    counts = np.bincount(np.asarray(drawn), minlength=VOCAB)
    common = p * len(drawn) >= 5
    observed, expected = list(counts[common]), list(p[common] * len(drawn))
    if not common.all():
        observed.append(counts[~common].sum())
        expected.append(p[~common].sum() * len(drawn))
    return bool(stats.chisquare(observed, expected).pvalue > 1e-5)
