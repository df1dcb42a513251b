"""Which rows share a forward pass, and how: the way that computes least.

Rows are sorted by length and padded. What is before their scored spans, as the prompt of a group's rollouts, may be the
same in several rows, and need not be computed for each of them. Either it has a pass of its own, and the rest of each
row attends to its keys and values, or, where rows are short, several of them are packed into one sequence: prefix,
rest, rest, ..., the next prefix, and so on, with a mask that shows each token its own row only. That leaves little
padding too, but attention is computed for the whole width of a pack. Attention that takes no such mask, but computes
rows of different lengths side by side, gets whole rows, and no padding. What each way computes depends on the lengths,
and is counted.

Axis letters: I items, each of some rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH_OVERHEAD = 512
"""What a batch costs besides its tokens, as a number of tokens: Python, launches, matrices read once more."""

WORTHWHILE = 0.9
"""Other ways than padding are taken if they compute at most this part: they also copy, and mask attention."""

COPIED = 0.3
"""What a row adds to memory for each token of a shared prefix, keys and values, as a part of a token of its own."""

IntArray = npt.NDArray[np.int64]
Span = tuple[int, int]
"""First and last + 1 of a row's scored tokens; nothing predicts a row's first token, which is never scored."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the rows of a batch are computed: padded, if nothing else is said.

    Attributes:
        shared: prefixes have a pass of their own.
        packs: how many rows each sequence has, if they are packed.
        whole: packed rows have their prefixes with them, and positions tell one from the next.
    """

    shared: bool = False
    packs: tuple[int, ...] = ()
    whole: bool = False


PADDED = Arrangement()


@dataclass(frozen=True, slots=True)
class Batch:
    """Indices of the rows that are computed together."""

    rows: list[int]
    arrangement: Arrangement = PADDED


@dataclass(frozen=True)
class Plan:
    """Batches, and what they cost: tokens, padding included, and each batch's overhead."""

    batches: list[Batch]
    cost: float


@dataclass(frozen=True)
class Packing:
    """How rows of a model are packed: none of more than `longest` tokens; `hidden` is the model's width."""

    longest: int
    hidden: int

    @classmethod
    def of(cls, config: object) -> Packing:
        """Packs of at most twice the width, whose attention costs a third of the rest or less.

        The mask replaces the architecture's own, which is the same for rows within its window.
        """
        hidden = int(getattr(config, "hidden_size", 0))
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return cls(min([2 * hidden, *(int(window) for window in windows if window)]), hidden)


def cheapest(
    rows: Sequence[Sequence[int]],
    spans: Sequence[Span],
    max_tokens: int,
    can_share: bool = True,
    packing: Packing | None = None,
    packs_whole: bool = False,
) -> Plan:
    """The way that computes least of those that the model allows.

    >>> rows = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]] * 400
    >>> cheapest(rows, [(4, 5)] * 800, max_tokens=2000).batches[0].arrangement.shared
    True
    """
    lengths = [len(row) for row in rows]
    best = plan(lengths, max_tokens)
    others = [plan_whole(lengths, max_tokens)] if packs_whole else []
    if all(start >= 1 for start, _ in spans):
        groups = _by_prefix(rows, [start for start, _ in spans])
        others += [plan_shared(groups, lengths, max_tokens)] if can_share else []
        if packing is not None and max(lengths, default=0) <= min(packing.longest, max_tokens):
            others.append(plan_packed(groups, lengths, max_tokens, packing))
    worthwhile = WORTHWHILE * best.cost
    return min([best, *(other for other in others if other.cost <= worthwhile)], key=lambda plan: plan.cost)


def plan(lengths: Sequence[int], max_tokens: int) -> Plan:
    """Batches of rows, longest first, cut so that the least is computed.

    Each has rows x longest row <= max_tokens; a row above that is alone.

    >>> [batch.rows for batch in plan([3000, 9000, 4000, 4000], max_tokens=9000).batches]
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    longest = np.array([max(lengths[i], 1) for i in order], dtype=np.int64)
    ends, cost = _cut(_Items.rows(longest), max_tokens, BATCH_OVERHEAD)
    return Plan([Batch(order[start:end]) for start, end in ends], cost)


@dataclass(frozen=True)
class _Part:
    """Rows with one prefix, the tokens of the prefix and of the longest rest, and tokens with the prefix once."""

    prefix: int
    rows: list[int]
    rest: int
    total: int


def plan_shared(groups: Iterable[_Part], lengths: Sequence[int], max_tokens: int) -> Plan:
    """Batches of rows whose prefixes are computed before them."""
    parts = [part for group in groups for part in _cut_by_length(group, lengths, max_tokens)]
    parts.sort(key=lambda part: -part.rest)
    prefix_I, count_I, rest_I = np.array([(p.prefix, len(p.rows), p.rest) for p in parts]).reshape(-1, 3).T
    ends, cost = _cut(_Items(prefix_I, count_I, rest_I, COPIED * prefix_I), max_tokens, 2 * BATCH_OVERHEAD)
    shared = Arrangement(shared=True)
    return Plan([Batch([i for part in parts[start:end] for i in part.rows], shared) for start, end in ends], cost)


def plan_packed(groups: Sequence[_Part], lengths: Sequence[int], max_tokens: int, packing: Packing) -> Plan:
    """Batches of packs, of the width of which they cost least; attention over it counts too.

    A layer's products take about 24 x hidden^2 operations per token, its attention 4 x hidden for each token seen.
    """
    longest = max(lengths, default=1)
    most = min(packing.longest, max_tokens)
    plans = []
    for width in sorted({min(max(longest, factor * packing.hidden // 2), most) for factor in (1, 2, 4)}):
        packs = _packs(groups, lengths, width)
        ends, cost = _cut(_Items.rows(np.array([pack.total for pack in packs])), max_tokens, BATCH_OVERHEAD)
        batches = [_batch(packs[start:end]) for start, end in ends]
        plans.append(Plan(batches, cost * (1 + width / (6 * packing.hidden))))
    return min(plans, key=lambda plan: plan.cost)


def plan_whole(lengths: Sequence[int], max_tokens: int) -> Plan:
    """Batches of one sequence of whole rows each, whose attention computes nothing between them."""
    packs = _packs([_part(0, [i], lengths) for i in range(len(lengths))], lengths, max_tokens)
    batches = [Batch(pack.rows, Arrangement(packs=(len(pack.rows),), whole=True)) for pack in packs]
    return Plan(batches, sum(pack.total + BATCH_OVERHEAD for pack in packs))


@dataclass
class _Pack:
    rows: list[int] = field(default_factory=list)
    total: int = 0


def _batch(packs: Sequence[_Pack]) -> Batch:
    return Batch([i for pack in packs for i in pack.rows], Arrangement(packs=tuple(len(pack.rows) for pack in packs)))


def _packs(groups: Sequence[_Part], lengths: Sequence[int], width: int) -> list[_Pack]:
    """Groups, or parts of them, put where they fit best, the largest first; the widest pack comes first."""
    parts = [part for group in groups for part in _cut_by_total(group, lengths, width)]
    packs: list[_Pack] = []
    spaces: list[tuple[int, int]] = []  # what is left of each pack, and its number
    for part in sorted(parts, key=lambda part: -part.total):
        at = bisect_left(spaces, (part.total, -1))
        if at == len(spaces):
            packs.append(_Pack())
            number = len(packs) - 1
        else:
            number = spaces.pop(at)[1]
        packs[number].rows += part.rows
        packs[number].total += part.total
        insort(spaces, (width - packs[number].total, number))
    return sorted(packs, key=lambda pack: -pack.total)


def _by_prefix(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[_Part]:
    """Rows that begin alike, longest first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        groups.setdefault(tuple(row[:start]), []).append(i)
    lengths = [len(row) for row in rows]
    return [_part(len(p), sorted(group, key=lambda i: (-lengths[i], i)), lengths) for p, group in groups.items()]


def _part(prefix: int, rows: list[int], lengths: Sequence[int]) -> _Part:
    rests = [lengths[i] - prefix for i in rows]
    return _Part(prefix, rows, max(rests[0], 1), prefix + sum(rests))


def _cut_by_length(group: _Part, lengths: Sequence[int], max_tokens: int) -> list[_Part]:
    """Cut a group where computing the prefix once more costs less than padding."""
    rest = np.array([max(lengths[i] - group.prefix, 1) for i in group.rows], dtype=np.int64)
    ends, _ = _cut(_Items.rows(rest, COPIED * group.prefix), max_tokens - group.prefix, group.prefix)
    return [_part(group.prefix, group.rows[start:end], lengths) for start, end in ends]


def _cut_by_total(group: _Part, lengths: Sequence[int], width: int) -> list[_Part]:
    """Cut a group into parts that fit into a pack."""
    if group.total <= width:
        return [group]
    parts: list[list[int]] = []
    total = width
    for i in group.rows:
        rest = lengths[i] - group.prefix
        if total + rest > width or not parts:
            parts.append([])
            total = group.prefix
        parts[-1].append(i)
        total += rest
    return [_part(group.prefix, part, lengths) for part in parts]


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
    rows, copied = _sums(items.count_I), _sums(items.count_I * items.copied_I)
    numbers, has_prefixes = np.arange(1, total + 1), bool(items.prefix_I.any())
    cost, end = np.zeros(total + 1, dtype=np.int64), np.zeros(total, dtype=np.int64)  # of the batches from an item on
    for i in reversed(range(total)):
        rest = int(items.rest_I[i])
        last = min(total, i + max(1, max_tokens // rest))
        tokens = (rows[i + 1 : last + 1] - rows[i]) * rest
        if has_prefixes:
            tokens += numbers[: last - i] * np.maximum.accumulate(items.prefix_I[i:last])
        held = copied[i + 1 : last + 1] - copied[i] + tokens
        fitting = max(1, int(held.searchsorted(max_tokens, side="right")))
        totals = tokens[:fitting] + cost[i + 1 : i + 1 + fitting]
        best = int(totals.argmin())
        cost[i], end[i] = totals[best] + overhead, i + 1 + best
    bounds, start = [], 0
    while start < total:
        bounds.append((start, int(end[start])))
        start = int(end[start])
    return bounds, int(cost[0])


def _sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of the first 0, 1, 2, ... values."""
    return np.concatenate([[0], np.cumsum(values)])
