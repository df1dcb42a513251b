"""The transformers engine: continuous batching over the model's key-value cache, with the trainer's own weights.

Each prompt is prefilled once and its keys and values repeated for its rollouts. Every request has its own temperature,
seeds and length limit; as rollouts finish, waiting ones take their place (bands.py). The log-prob and entropy of every
token are recorded while sampling, so on-policy training needs no extra forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from prepo_cli.engines.bands import Bands
from prepo_cli.engines.base import EngineSetup, Finished, Request, Rollout
from prepo_cli.engines.decoding import Decoding
from prepo_cli.engines.memory import cache_bytes_per_token, tokens_that_fit
from prepo_cli.engines.records import Row
from prepo_cli.policy.policy import Policy

MAX_ROWS = 1024
"""Rollouts that decode together; more gain little, and their logits need memory."""


class HfEngine:
    """Generates in process with the policy's own weights.

    Args:
        max_batch_tokens: bound on rows x context of the rollouts that decode together; None: what fits into memory.
    """

    shares_weights: ClassVar[bool] = True
    serves_all: ClassVar[bool] = False
    exact_logprobs: ClassVar[bool] = True
    scores_prompts: ClassVar[bool] = False

    def __init__(self, policy: Policy, max_batch_tokens: int | None = None) -> None:
        self.policy, self.max_batch_tokens = policy, max_batch_tokens

    @classmethod
    def build(cls, setup: EngineSetup) -> HfEngine:
        """An engine on the setup's policy."""
        assert isinstance(setup.model, Policy), "the hf engine needs a policy with its weights, not a model spec"
        return cls(setup.model, setup.config.max_batch_tokens)

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """The rollouts of each request, in the order of its seeds.

        Raises:
            RunError: the model's logits aren't finite.
        """
        results: list[list[Rollout | None]] = [[None] * len(request.seeds) for request in requests]

        def done(row: Row, rollout: Rollout) -> None:
            results[row.index][row.number] = rollout
            if finished is not None:
                finished(row.index, row.number, rollout)

        self.policy.model.eval()
        with torch.inference_mode():
            max_tokens = self.max_batch_tokens or tokens_that_fit(self.policy.device, self._bytes_per_token)
            rows = (Row(r, s, request) for r, request in enumerate(requests) for s in range(len(request.seeds)))
            Decoding(self.policy, Bands(max_tokens, MAX_ROWS), rows, done).run()
        return [[rollout for rollout in group if rollout is not None] for group in results]

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to load: the weights are the trainer's own."""

    def sleep(self) -> None:
        """Nothing to release: the cache only lives during a call."""

    def close(self) -> None:
        """Nothing to free."""

    @cached_property
    def _bytes_per_token(self) -> int:
        return cache_bytes_per_token(self.policy)
