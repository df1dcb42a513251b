"""The transformers engine: a decode loop over the model's key-value cache, with the trainer's own weights.

Each prompt is prefilled once and its cache row repeated for its rollouts. Every request has its own temperature,
seeds and length limit; finished rows leave the batch. The log-prob and entropy of every token are recorded while
sampling, so on-policy training needs no extra forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prepo_cli.engines.base import EngineSetup, Progress, Request, Rollout
from prepo_cli.engines.kv_cache import growing_cache
from prepo_cli.engines.sampling import sample, uniforms
from prepo_cli.errors import RunError
from prepo_cli.policy.policy import NOT_FINITE, Policy

LOGIT_ELEMENTS = 2**25
"""Logits processed at once when sampling (128 MiB in float32)."""
SHRINK_AT = 0.8
"""The batch is compacted once at most this share of its rows is still decoding."""


class HfEngine:
    """Generates in process with the policy's own weights.

    Args:
        max_batch_tokens: bound on rows x context of the rollouts that decode together.
    """

    shares_weights: ClassVar[bool] = True
    serves_all: ClassVar[bool] = False
    exact_logprobs: ClassVar[bool] = True
    scores_prompts: ClassVar[bool] = False

    def __init__(self, policy: Policy, max_batch_tokens: int) -> None:
        self.policy = policy
        self.max_batch_tokens = max_batch_tokens

    @classmethod
    def build(cls, setup: EngineSetup) -> HfEngine:
        """An engine on the setup's policy."""
        assert isinstance(setup.model, Policy), "the hf engine needs a policy with its weights, not a model spec"
        return cls(setup.model, setup.config.max_batch_tokens)

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """The rollouts of each request, in the order of its seeds.

        Raises:
            RunError: the model's logits aren't finite.
        """
        results: list[list[Rollout | None]] = [[None] * len(request.seeds) for request in requests]
        self.policy.model.eval()
        with torch.inference_mode():
            for wave in self._waves(requests):
                decoded = _Decoding(self.policy, [(requests[r], s) for r, s in wave], progress).run()
                for (r, s), rollout in zip(wave, decoded, strict=True):
                    results[r][s] = rollout
        return [[rollout for rollout in group if rollout is not None] for group in results]

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to load: the weights are the trainer's own."""

    def sleep(self) -> None:
        """Nothing to release: the cache only lives during a call."""

    def close(self) -> None:
        """Nothing to free."""

    def _waves(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, int]]]:
        """(request, seed) index pairs to decode together, shortest prompts first, within `max_batch_tokens`."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        wave: list[tuple[int, int]] = []
        width = 0
        for r in order:
            need = len(requests[r].prompt_ids) + requests[r].max_tokens
            for s in range(len(requests[r].seeds)):
                if wave and (len(wave) + 1) * max(width, need) > self.max_batch_tokens:
                    yield wave
                    wave, width = [], 0
                wave.append((r, s))
                width = max(width, need)
        if wave:
            yield wave


class _Decoding:
    """One wave of rows, each a (request, seed index) pair: N rows, P distinct prompts, B rows in the current batch."""

    def __init__(self, policy: Policy, rows: list[tuple[Request, int]], progress: Progress | None) -> None:
        self.policy, self.rows, self.progress = policy, rows, progress
        device = policy.device
        self.limit_N = np.array([request.max_tokens for request, _ in rows])
        self.seeds_N = np.array([request.seeds[s] for request, s in rows], dtype=np.uint64)
        self.temperature_N = torch.tensor([request.temperature for request, _ in rows], device=device)
        top_p = [request.top_p for request, _ in rows]
        self.top_p_N = torch.tensor(top_p, device=device) if min(top_p) < 1 else None
        self.eos = torch.tensor(sorted(policy.eos_token_ids), device=device)
        steps = int(self.limit_N.max())
        self.tokens_NT = np.zeros((len(rows), steps), dtype=np.int64)
        self.logprobs_NT = np.zeros((len(rows), steps), dtype=np.float32)
        self.entropies_NT = np.zeros((len(rows), steps), dtype=np.float32)
        self.lengths_N = np.zeros(len(rows), dtype=np.int64)
        self.ended_N = np.zeros(len(rows), dtype=np.bool_)
        self.cache = growing_cache(policy.model.config)

    def run(self) -> list[Rollout]:
        """Decode until every row has finished."""
        logits_BV, mask_BL = self._prefill()
        row_B = np.arange(len(self.rows))  # the row behind each batch row
        live_B = np.ones(len(row_B), dtype=np.bool_)  # batch rows that have not finished
        for position in range(self.tokens_NT.shape[1]):
            token_B = self._draw(logits_BV, row_B, live_B, position)
            if not live_B.any():
                break
            if live_B.mean() <= SHRINK_AT:
                kept = torch.from_numpy(live_B.nonzero()[0]).to(token_B.device)
                self.cache.batch_select_indices(kept)
                mask_BL, token_B = mask_BL[kept], token_B[kept]
                row_B = row_B[live_B]
                live_B = np.ones(len(row_B), dtype=np.bool_)
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(row_B), 1)], dim=1)
            logits_BV = self.policy.model(
                input_ids=token_B[:, None],
                attention_mask=mask_BL,
                position_ids=mask_BL.sum(dim=1, keepdim=True) - 1,
                past_key_values=self.cache,
                use_cache=True,
            ).logits[:, -1]
        return [self._rollout(n) for n in range(len(self.rows))]

    def _prefill(self) -> tuple[Tensor, Tensor]:
        """Run each distinct prompt once, left-padded, and repeat its cache row for its rollouts."""
        requests = list({id(request): request for request, _ in self.rows}.values())
        number = {id(request): p for p, request in enumerate(requests)}
        prompts = [request.prompt_ids for request in requests]
        width = max(map(len, prompts))
        ids_PL = torch.full((len(prompts), width), self.policy.pad_token_id, dtype=torch.long)
        mask_PL = torch.zeros((len(prompts), width), dtype=torch.long)
        for p, prompt in enumerate(prompts):
            ids_PL[p, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            mask_PL[p, width - len(prompt) :] = 1
        ids_PL, mask_PL = ids_PL.to(self.policy.device), mask_PL.to(self.policy.device)
        logits_PV = self.policy.model(
            input_ids=ids_PL,
            attention_mask=mask_PL,
            position_ids=(mask_PL.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        owner_B = torch.tensor([number[id(request)] for request, _ in self.rows], device=self.policy.device)
        self.cache.batch_select_indices(owner_B)
        return logits_PV[owner_B], mask_PL[owner_B]

    def _draw(self, logits_BV: Tensor, row_B: Any, live_B: Any, position: int) -> Tensor:
        """Sample a token for each batch row; record it for the live ones and mark those that finish with it."""
        device = logits_BV.device
        index_B = torch.from_numpy(row_B).to(device)
        uniform_B = torch.from_numpy(uniforms(self.seeds_N[row_B], position)).to(device)
        size = max(1, LOGIT_ELEMENTS // logits_BV.shape[1])
        parts = []
        for start in range(0, len(row_B), size):
            part = slice(start, start + size)
            top_p = None if self.top_p_N is None else self.top_p_N[index_B[part]]
            parts.append(sample(logits_BV[part], self.temperature_N[index_B[part]], top_p, uniform_B[part]))
        token_B, logprob_B, entropy_B = (torch.cat(column) for column in zip(*parts, strict=True))
        ended_B = torch.isin(token_B, self.eos).cpu().numpy()
        now, logprobs = row_B[live_B], logprob_B.cpu().numpy()[live_B]
        if not np.isfinite(logprobs).all():
            raise RunError(NOT_FINITE)
        self.tokens_NT[now, position] = token_B.cpu().numpy()[live_B]
        self.logprobs_NT[now, position] = logprobs
        self.entropies_NT[now, position] = entropy_B.cpu().numpy()[live_B]
        self.lengths_N[now] = position + 1
        self.ended_N[now] = ended_B[live_B]
        finished_B = live_B & (ended_B | (self.limit_N[row_B] <= position + 1))
        if self.progress is not None and finished_B.any():
            self.progress(int(finished_B.sum()))
        live_B &= ~finished_B
        return token_B

    def _rollout(self, n: int) -> Rollout:
        length = int(self.lengths_N[n])
        return Rollout(
            token_ids=self.tokens_NT[n, :length].tolist(),
            logprobs=self.logprobs_NT[n, :length].copy(),
            entropies=self.entropies_NT[n, :length].copy(),
            truncated=not bool(self.ended_N[n]),
        )
