"""The decode loop: one token for each row of a batch at a time, while finished rows make room for waiting ones."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prepo_cli.engines.bands import Bands
from prepo_cli.engines.base import Rollout
from prepo_cli.engines.kv_cache import can_regroup, growing_cache, regroup
from prepo_cli.engines.prefill import prefill
from prepo_cli.engines.records import BoolArray, FloatArray, IntArray, Records, Row
from prepo_cli.engines.sampling import sample, uniforms
from prepo_cli.errors import RunError
from prepo_cli.policy.policy import NOT_FINITE, Policy

LOGIT_ELEMENTS, CPU_LOGIT_ELEMENTS = 2**25, 2**22
"""Logits processed at once when sampling (128 and 16 MiB in float32).

A CPU's freed memory of 32 MiB or more goes back to the system, and each step would ask for it anew.
"""
REGROUP_AT = 0.8
"""Rows leave and join once at most this share of a batch is still decoding: the cache is copied then."""

Done = Callable[[Row, Rollout], None]


class Decoding:
    """Generates all rows' rollouts; B rows are in the current batch, the others wait, shortest first."""

    def __init__(self, policy: Policy, bands: Bands, rows: Iterable[Row], done: Done) -> None:
        self.policy, self.bands, self.done = policy, bands, done
        self.eos = np.array(sorted(policy.eos_token_ids))
        self.waiting = sorted(rows, key=lambda row: row.length)
        self.longest = max((row.longest for row in self.waiting), default=0)
        self.cache: Any = growing_cache(policy.model.config)
        self.can_join = can_regroup(self.cache)
        self._use([])
        self.token_B = torch.zeros(0, dtype=torch.long, device=policy.device)
        self.mask_BL = torch.zeros((0, 0), dtype=torch.long, device=policy.device)

    def run(self) -> None:
        """Decode until every row has finished."""
        while self.waiting or self.live_B.any():
            if self._regroups():
                self._regroup()
            if self.live_B.any():
                self._step()

    def _use(self, rows: list[Row]) -> None:
        """Make these the rows of the batch."""
        device = self.policy.device
        self.rows, self.records = rows, Records(rows)
        self.live_B: BoolArray = np.ones(len(rows), dtype=np.bool_)
        self.prompt_B = np.array([len(row.request.prompt_ids) for row in rows], dtype=np.int64)
        self.limit_B = np.array([row.request.max_tokens for row in rows], dtype=np.int64)
        self.seed_B = np.array([row.request.seeds[row.number] for row in rows], dtype=np.uint64)
        self.temperature_B = torch.tensor([row.request.temperature for row in rows], device=device)
        top_p = [row.request.top_p for row in rows]
        self.top_p_B = torch.tensor(top_p, device=device) if min(top_p, default=1.0) < 1 else None

    @property
    def length_B(self) -> IntArray:
        """Tokens of each row, of which all but the last are in the cache."""
        return self.prompt_B + self.records.count_B

    def _regroups(self) -> bool:
        """Whether so few are left that others should join, or the band is over."""
        few = self.live_B.sum() <= REGROUP_AT * len(self.live_B)
        return bool(few or (self.length_B[self.live_B] >= self.bands.end).any())

    def _step(self) -> None:
        """Feed each row's last token and draw the next one."""
        self.mask_BL = torch.cat([self.mask_BL, self.mask_BL.new_ones(len(self.rows), 1)], dim=1)
        logits_BV = self.policy.model(
            input_ids=self.token_B[:, None],
            attention_mask=self.mask_BL,
            position_ids=self.mask_BL.sum(dim=1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.token_B = self._draw(logits_BV)
        if self.waiting and self.waiting[0].length < self.bands.end:
            for b in np.flatnonzero(self.live_B & (self.length_B >= self.bands.end)):
                self._set_aside(int(b))

    def _draw(self, logits_MV: Tensor, first: int = 0) -> Tensor:
        """Sample a token for the rows from `first` on; record it for the live ones, and finish those it ends."""
        uniform_M = torch.from_numpy(uniforms(self.seed_B[first:], self.records.count_B[first:])).to(logits_MV.device)
        elements = CPU_LOGIT_ELEMENTS if logits_MV.device.type == "cpu" else LOGIT_ELEMENTS
        size = max(1, elements // logits_MV.shape[1])
        parts = []
        for start in range(0, len(logits_MV), size):
            part, rows = slice(start, start + size), slice(first + start, first + start + size)
            top_p = None if self.top_p_B is None else self.top_p_B[rows]
            parts.append(sample(logits_MV[part], self.temperature_B[rows], top_p, uniform_M[part]))
        token_M, logprob_M, entropy_M = (torch.cat(column) for column in zip(*parts, strict=True))
        values_M3: FloatArray = torch.stack([token_M.double(), logprob_M.double(), entropy_M.double()], 1).cpu().numpy()
        batch_M = first + np.flatnonzero(self.live_B[first:])
        values_M3 = values_M3[batch_M - first]
        if not np.isfinite(values_M3[:, 1]).all():
            raise RunError(NOT_FINITE)
        if len(batch_M):
            self.records.append(batch_M, values_M3)
        ended_M = np.isin(values_M3[:, 0], self.eos)
        finished_M = ended_M | (self.records.count_B[batch_M] >= self.limit_B[batch_M])
        for b, ended in zip(batch_M[finished_M], ended_M[finished_M], strict=True):
            self._leave(int(b))
            self.done(self.rows[b], self.rows[b].rollout(bool(ended)))
        return token_M

    def _leave(self, b: int) -> None:
        self.live_B[b] = False
        self.rows[b].record_3T = self.records.of(b)

    def _set_aside(self, b: int) -> None:
        """Let a row wait for a later band."""
        self._leave(b)
        insort(self.waiting, self.rows[b], key=lambda row: row.length)

    def _regroup(self) -> None:
        """Drop the rows that left, choose the band, and let waiting rows join."""
        shortest = self.waiting[0].length if self.waiting else int(self.length_B[self.live_B].max())
        self.bands.advance(shortest, len(self.waiting) + int(self.live_B.sum()), self.longest)
        room = self.bands.room(self.bands.end)
        by_length = sorted(np.flatnonzero(self.live_B), key=lambda b: -self.length_B[b])
        for b in by_length[room:]:
            self._set_aside(int(b))
        kept = np.flatnonzero(self.live_B)
        joining: list[Row] = []
        if self.can_join or not len(kept):
            below = bisect_left(self.waiting, self.bands.end, key=lambda row: row.length)
            count = min(below, room - len(kept))
            joining, self.waiting = self.waiting[:count], self.waiting[count:]
        self._rebuild(kept, joining)

    def _rebuild(self, kept: IntArray, joining: list[Row]) -> None:
        """Make a batch of rows that are kept, with their place in the cache, and rows that join."""
        device = self.policy.device
        kept_K = torch.from_numpy(kept).to(device)
        token_K, cached_K = self.token_B[kept_K], self.length_B[kept] - 1
        for b in kept:
            self.rows[b].record_3T = self.records.of(int(b))
        parts, order, logits = self._prefill(joining)
        rows = [self.rows[b] for b in kept] + [joining[j] for j in order]
        cached_B = np.concatenate([cached_K, [joining[j].length for j in order]]).astype(np.int64)
        width = int(cached_B.max())
        if self.can_join:
            regroup(self.cache, [(self.cache, kept_K), *parts] if len(kept) else parts, width)
        elif parts:
            self.cache, owner = parts[0]
            self.cache.reorder_cache(owner)
        else:
            self.cache.reorder_cache(kept_K)
            width = self.mask_BL.shape[1]
        self._use(rows)
        first = torch.from_numpy(width - cached_B).to(device)
        self.mask_BL = (torch.arange(width, device=device)[None] >= first[:, None]).long()
        drawn = [self._draw(logits, first=len(kept))] if len(order) else []
        self.token_B = torch.cat([token_K, *drawn])

    def _prefill(self, joining: list[Row]) -> tuple[list[Any], list[int], Tensor]:
        """Compute each distinct context once.

        Returns:
            caches with the rows to take from them, the order in which these are `joining`, and their logits.
        """
        contexts: dict[Any, list[int]] = {}  # a prompt's rollouts, or one that continues
        for j, row in enumerate(joining):
            contexts.setdefault((row.index,) if not row.record_3T.shape[1] else (row.index, row.number), []).append(j)
        owners = list(contexts.values())
        parts, order, logits = [], list[int](), []
        tokens = [joining[owned[0]].context for owned in owners]
        for batch, cache, logits_PV in prefill(self.policy.model, tokens, self.policy.pad_token_id, self.policy.device):
            taken = torch.tensor([p for p, c in enumerate(batch) for _ in owners[c]], device=self.policy.device)
            parts.append((cache, taken))
            order += [j for c in batch for j in owners[c]]
            logits.append(logits_PV[taken])
        return parts, order, torch.cat(logits) if logits else torch.zeros(0)
