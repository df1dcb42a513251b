"""Rows of tokens to be scored: which of them share a forward pass, and as what tensors.

Rows are right-padded, so a causal model never sees padding from a token before it, and no attention mask is needed.
Rows that begin alike, as a group's rollouts do, may share the computation of that prefix: it is computed once, and the
rest of each row attends to its keys and values. Which way less is computed depends on the lengths, and is counted.

Axis letters: B rows, L padded length, G different prefixes, P padded length of a prefix, M scored tokens (row by row,
left to right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BATCH_OVERHEAD = 512
"""What a batch costs besides its tokens, as a number of tokens: Python, launches, matrices read once more."""

WORTH_SHARING = 0.9
"""Prefixes are shared if that computes at most this part: it also copies keys and values, and masks attention."""

COPIED = 0.3
"""What a row adds to memory for each token of a shared prefix, keys and values, as a part of a token of its own."""

IntArray = npt.NDArray[np.int64]
Span = tuple[int, int]
"""First and last + 1 of a row's scored tokens; nothing predicts a row's first token, which is never scored."""


@dataclass(frozen=True)
class Prefixes:
    """Left-padded prefixes [G, P], and which of them each row [B] continues."""

    ids_GP: Tensor
    mask_GP: Tensor
    of_row_B: Tensor


@dataclass(frozen=True)
class Rows:
    """Right-padded rows [B, L], without their prefixes if these are shared; `chosen_BL` is true on scored tokens."""

    ids_BL: Tensor
    mask_BL: Tensor
    chosen_BL: Tensor
    temperature_B: Tensor
    prefixes: Prefixes | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        spans: Sequence[Span],
        temperatures: Sequence[float],
        pad_id: int,
        device: Any,
        shared: bool = False,
        width: int = 1,
    ) -> Rows:
        """Pad rows to `width` or the longest; with `shared`, each is scored from the end of its prefix to its own."""
        prefixes = None
        if shared:
            prefixes = _prefixes([row[:start] for row, (start, _) in zip(rows, spans, strict=True)], pad_id, device)
            rows = [row[start:] for row, (start, _) in zip(rows, spans, strict=True)]
            spans = [(0, len(row)) for row in rows]
        ids_BL, mask_BL = _padded(rows, pad_id, width)
        bounds_B2 = torch.tensor(spans, dtype=torch.long).reshape(-1, 2)
        first_B1 = bounds_B2[:, :1] if shared else bounds_B2[:, :1].clamp(min=1)
        position_L = torch.arange(ids_BL.shape[1])
        chosen_BL = (position_L >= first_B1) & (position_L < bounds_B2[:, 1:])
        temperature_B = torch.tensor(temperatures, dtype=torch.float32, device=device)
        return cls(ids_BL.to(device), mask_BL.to(device), chosen_BL.to(device), temperature_B, prefixes)


@dataclass(frozen=True)
class Plan:
    """Batches of indices of rows, and whether the rows of a batch share their prefixes."""

    batches: list[list[int]]
    shared: bool = False


def plan(lengths: Sequence[int], max_tokens: int) -> Plan:
    """Batches of rows, longest first, cut so that the least is computed.

    Each has rows x longest row <= max_tokens; a row above that is alone.

    >>> plan([3000, 9000, 4000, 4000], max_tokens=9000).batches
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    longest = np.array([max(lengths[i], 1) for i in order], dtype=np.int64)
    ends, _ = _cut(_Items.rows(longest), max_tokens, BATCH_OVERHEAD)
    return Plan([order[start:end] for start, end in ends])


def plan_shared(rows: Sequence[Sequence[int]], starts: Sequence[int], max_tokens: int) -> Plan:
    """Batches of rows that share what is before their start, if that computes much less than whole rows do.

    >>> plan_shared([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]] * 400, [4] * 800, max_tokens=2000).shared
    True
    """
    plain = plan([len(row) for row in rows], max_tokens)
    if any(start < 1 for start in starts):
        return plain
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        groups.setdefault(tuple(row[:start]), []).append(i)
    parts = [part for prefix, group in groups.items() for part in _parts(prefix, group, rows, max_tokens)]
    parts.sort(key=lambda part: -part.rest)
    prefix_I, count_I, rest_I = np.array([(len(p.prefix), len(p.rows), p.rest) for p in parts]).reshape(-1, 3).T
    ends, cost = _cut(_Items(prefix_I, count_I, rest_I, COPIED * prefix_I), max_tokens, 2 * BATCH_OVERHEAD)
    if cost > WORTH_SHARING * computed(plain, [len(row) for row in rows]):
        return plain
    return Plan([[i for part in parts[start:end] for i in part.rows] for start, end in ends], shared=True)


def computed(plain: Plan, lengths: Sequence[int]) -> int:
    """What a plan of whole rows computes: padded tokens and each batch's overhead."""
    return sum(len(batch) * max(max(lengths[i] for i in batch), 1) + BATCH_OVERHEAD for batch in plain.batches)


@dataclass(frozen=True)
class _Part:
    """Rows with one prefix that are computed together, and the longest rest of them."""

    prefix: tuple[int, ...]
    rows: list[int]
    rest: int


def _parts(
    prefix: tuple[int, ...], group: Sequence[int], rows: Sequence[Sequence[int]], max_tokens: int
) -> list[_Part]:
    """Cut a group where computing the prefix once more costs less than padding."""
    order = sorted(group, key=lambda i: (-len(rows[i]), i))
    rest = np.array([max(len(rows[i]) - len(prefix), 1) for i in order], dtype=np.int64)
    ends, _ = _cut(_Items.rows(rest, COPIED * len(prefix)), max_tokens - len(prefix), len(prefix))
    return [_Part(prefix, order[start:end], int(rest[start])) for start, end in ends]


@dataclass(frozen=True)
class _Items:
    """Each of I items is `count` rows of `rest` tokens after one prefix; the longest rest comes first.

    `copied` is what each row holds in memory besides, as a number of tokens.
    """

    prefix_I: IntArray
    count_I: IntArray
    rest_I: IntArray
    copied_I: npt.NDArray[np.float64]

    @classmethod
    def rows(cls, length_I: IntArray, copied: float = 0.0) -> _Items:
        """Rows without a prefix."""
        return cls(np.zeros_like(length_I), np.ones_like(length_I), length_I, np.full(len(length_I), copied))


def _cut(items: _Items, max_tokens: int, overhead: int) -> tuple[list[tuple[int, int]], int]:
    """Cut items into batches of least total cost, which is returned with their bounds.

    A batch is padded to its longest prefix and its longest rest; it holds at most `max_tokens`, or one item.
    """
    total = len(items.rest_I)
    cost, end = np.zeros(total + 1, dtype=np.int64), np.zeros(total, dtype=np.int64)  # of the batches from an item on
    for i in reversed(range(total)):
        some = slice(i, i + max(1, max_tokens // int(items.rest_I[i])))
        count = items.count_I[some]
        tokens = np.arange(1, len(count) + 1) * np.maximum.accumulate(items.prefix_I[some])
        tokens += np.cumsum(count) * items.rest_I[i]
        held = tokens + np.cumsum(count * items.copied_I[some])
        fitting = max(1, int(np.searchsorted(held, max_tokens, side="right")))
        totals = tokens[:fitting] + cost[i + 1 : i + 1 + fitting]
        best = int(totals.argmin())
        cost[i], end[i] = totals[best] + overhead, i + 1 + best
    bounds, start = [], 0
    while start < total:
        bounds.append((start, int(end[start])))
        start = int(end[start])
    return bounds, int(cost[0])


def _prefixes(prefixes: Sequence[Sequence[int]], pad_id: int, device: Any) -> Prefixes:
    number = {prefix: g for g, prefix in enumerate(dict.fromkeys(map(tuple, prefixes)))}
    ids_GP, mask_GP = _padded([prefix[::-1] for prefix in number], pad_id)
    of_row_B = torch.tensor([number[tuple(prefix)] for prefix in prefixes], dtype=torch.long)
    return Prefixes(ids_GP.flip(1).to(device), mask_GP.flip(1).to(device), of_row_B.to(device))


def _padded(rows: Sequence[Sequence[int]], pad_id: int, width: int = 1) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, L] and their mask."""
    width = max(width, *map(len, rows))
    ids_BL = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BL[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    lengths_B = torch.tensor([len(row) for row in rows])
    return ids_BL, torch.arange(width)[None] < lengths_B[:, None]
