"""The update: against bare forward and backward passes over as many tokens, and with prompts shared or not.

`update` is one optimizer step on rollouts of different lengths. `bare` is the model's own loss over rows that all have
the same length, as many tokens in all and no padding, without an optimizer: what no update can beat. `shared` and
`whole` are updates on half as many groups with long prompts, `score` and `score whole` their log-probs and entropies
alone. `make bench` measures 2 groups with a model of 3 layers, `make bench-large` 8 with one of 6.

    python -m benchmarks --only update
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.paired import Claim, Found, timed
from prepo_cli.config import resolve
from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.hf import HfEngine
from prepo_cli.machine import keep_freed_memory
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.learner import Learner
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.team import Team

CLAIMS = (
    Claim("update: time against bare forward and backward passes", "update", "bare", limit=1.15),
    Claim("update with shared prompts: time against whole rows", "shared", "whole", limit=0.5),
    Claim("scoring with shared prompts: time against whole rows", "score", "score whole", limit=0.5),
)
SHAPE = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"layers": 3, "vocabulary": 32_000, "groups": 2, "rollouts": 8, "longest": 256, "prompt": 512},
    "large": {"layers": 6, "vocabulary": 32_000, "groups": 8, "rollouts": 8, "longest": 256, "prompt": 512},
    "quick": {"layers": 2, "vocabulary": 4_000, "groups": 2, "rollouts": 8, "longest": 128, "prompt": 256},
}
BARE_ROWS = (4, 8)
"""Rows in a batch; the fastest counts."""


def measure(variant: str, layers: int, vocabulary: int, groups: int, rollouts: int, longest: int, prompt: int) -> Found:
    """Seconds and memory of one variant."""
    keep_freed_memory()  # as for any policy that is loaded
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=vocabulary, num_hidden_layers=layers, **SHAPE, tie_word_embeddings=True)
    policy = Policy(model := Qwen2ForCausalLM(config), None, TokenScorer(model), torch.device("cpu"), frozenset({1}), 0)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    if variant in ("update", "bare"):
        samples = _samples(rng, groups, rollouts, vocabulary, prompt=8, lengths=lambda: rng.integers(16, longest + 1))
    else:
        samples = _samples(rng, groups // 2, rollouts, vocabulary, prompt=prompt, lengths=lambda: longest // 2)
    if variant == "bare":
        return min((_bare(model, samples, rows, longest) for rows in BARE_ROWS), key=lambda found: found["seconds"])
    policy.scorer.shares_prefixes = variant in ("shared", "score", "update")
    if variant in ("whole", "score whole"):
        policy.scorer.packing = None
    team = _team(policy)
    tokens = float(sum(sample.num_tokens for sample in samples))
    if variant.startswith("score"):
        rows, spans = [s.ids for s in samples], [(s.start, len(s.ids)) for s in samples]
        return timed(lambda: team.score(rows, spans, [1.0] * len(rows), with_entropy=True), warm_up=False)
    return timed(lambda: team.step(samples, tokens, 1e-6, 0, False), warm_up=False)


def _samples(
    rng: np.random.Generator, groups: int, rollouts: int, vocabulary: int, prompt: int, lengths: Any
) -> list[TrainingSample]:
    """Rollouts with random tokens and advantages."""
    samples = []
    for group in range(groups):
        start = rng.integers(2, vocabulary, prompt).tolist()
        for _ in range(rollouts):
            ids = start + rng.integers(2, vocabulary, int(lengths())).tolist()
            length = len(ids) - prompt
            zeros = np.zeros(length, dtype=np.float32)
            samples.append(TrainingSample(ids, prompt, 1.0, np.full(length, rng.normal()), zeros, group))
    return samples


def _team(policy: Policy) -> Team:
    config = resolve()
    processes = Processes(config.training)
    layout = Replicated(policy, processes, config.training)
    learner = Learner(config, processes, policy, layout, HfEngine(policy))
    # A default for any model; `config` has the embedded one's.
    return Team(processes, learner, TrainingConfig().max_tokens_per_micro_batch)


def _bare(model: Any, samples: Sequence[TrainingSample], rows: int, longest: int) -> Found:
    """The model's own loss on the samples' tokens, cut into rows of equal length."""
    stream = torch.tensor([token for sample in samples for token in sample.ids])
    length = longest // 2
    batches = stream[: len(stream) // length * length].reshape(-1, length).split(rows)
    model.train()

    def work() -> None:
        for ids_BL in batches:
            model(input_ids=ids_BL, labels=ids_BL, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return timed(work, warm_up=False)
