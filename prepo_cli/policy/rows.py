"""Rows of tokens as tensors: padded, with shared prefixes, or packed (plans.py says when).

Rows are right-padded, so a causal model never sees padding from a token before it, and no attention mask is needed.

Axis letters: B sequences, a row or a pack of rows each, L padded length, G different prefixes, P padded length of a
prefix, M scored tokens (row by row, left to right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prepo_cli.policy.plans import PADDED, Arrangement, IntArray, Span


@dataclass(frozen=True)
class Prefixes:
    """Left-padded prefixes [G, P], which of them each row [B] continues, and the mask [B, L] of what continues it."""

    ids_GP: Tensor
    mask_GP: Tensor
    of_row_B: Tensor
    mask_BL: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], spans: Sequence[Span], pad_id: int, device: Any) -> Prefixes:
        """What is before the spans."""
        prefixes = [tuple(row[:start]) for row, (start, _) in zip(rows, spans, strict=True)]
        number = {prefix: g for g, prefix in enumerate(dict.fromkeys(prefixes))}
        width = max(map(len, number))
        ids_GP = _padded([prefix[::-1] for prefix in number], pad_id)[:, ::-1].copy()
        first_G1 = np.array([[width - len(prefix)] for prefix in number])
        count_B1 = np.array([[end - start] for start, end in spans])
        arrays = (
            ids_GP,
            np.arange(width) >= first_G1,
            np.array([number[prefix] for prefix in prefixes]),
            np.arange(max(1, int(count_B1.max()))) < count_B1,
        )
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class Packs:
    """The position of each token in its own row, and which tokens it sees; None if attention goes by the positions."""

    position_BL: Tensor
    visible_B1LL: Tensor | None = None

    @classmethod
    def of(cls, place_BL3: Tensor) -> Packs:
        """From each token's position, the number of its prefix, and the number of its row, 0 in a prefix itself."""
        position_BL, prefix_BL, row_BL = place_BL3.unbind(dim=2)
        column_L = torch.arange(place_BL3.shape[1], device=place_BL3.device)
        visible_BLL = (column_L[:, None] >= column_L) & (prefix_BL[:, :, None] == prefix_BL[:, None])
        visible_BLL &= (row_BL[:, None] == 0) | (row_BL[:, :, None] == row_BL[:, None])
        return cls(position_BL, visible_BLL[:, None])


@dataclass(frozen=True)
class Rows:
    """What a forward pass computes, and what is scored of it.

    Attributes:
        ids_BL: tokens, without shared prefixes.
        state_M: index of the state that predicts each scored token, among those of the pass [B x L]; with shared
            prefixes these are each prefix's last state and then those of what continues it, but for the last.
        target_M: the scored tokens.
        temperature_M: of each scored token.
        counts: scored tokens of each row.
    """

    ids_BL: Tensor
    state_M: Tensor
    target_M: Tensor
    temperature_M: Tensor
    counts: Sequence[int]
    prefixes: Prefixes | None = None
    packs: Packs | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        spans: Sequence[Span],
        temperatures: Sequence[float],
        pad_id: int,
        device: Any,
        arrangement: Arrangement = PADDED,
    ) -> Rows:
        """Arrange rows; if not padded, each is scored from the end of its prefix to its own end."""
        spans = [(max(start, 1), max(start, end, 1)) for start, end in spans]
        prefixes = packs = None
        if arrangement.packs:
            ids_BL, state_M, packs = _packed(rows, spans, arrangement, pad_id, device)
        elif arrangement.shared:
            prefixes = Prefixes.of(rows, spans, pad_id, device)
            ids_BL = _padded([row[start:end] for row, (start, end) in zip(rows, spans, strict=True)], pad_id)
            state_M = _indices([(0, end - start) for start, end in spans], ids_BL.shape[1])
        else:
            ids_BL = _padded(rows, pad_id)
            state_M = _indices([(start - 1, end - 1) for start, end in spans], ids_BL.shape[1])
        targets = [token for row, (start, end) in zip(rows, spans, strict=True) for token in row[start:end]]
        counts = [end - start for start, end in spans]
        return cls(
            torch.from_numpy(ids_BL).to(device),
            torch.from_numpy(state_M).to(device),
            torch.tensor(targets, dtype=torch.long, device=device),
            torch.from_numpy(np.repeat(np.array(temperatures, dtype=np.float32), counts)).to(device),
            counts,
            prefixes,
            packs,
        )

    @property
    def row_M(self) -> Tensor:
        """Which row each scored token belongs to."""
        row_M = np.repeat(np.arange(len(self.counts)), self.counts)
        return torch.from_numpy(row_M).to(self.ids_BL.device)


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> IntArray:
    """Right-padded ids [B, L]."""
    ids_BL = np.full((len(rows), max(1, *map(len, rows))), pad_id, dtype=np.int64)
    for i, row in enumerate(rows):
        ids_BL[i, : len(row)] = row
    return ids_BL


def _indices(spans: Sequence[Span], width: int) -> IntArray:
    """Indices of the columns in each row's span, in the flattened rows."""
    parts = [np.arange(i * width + start, i * width + end) for i, (start, end) in enumerate(spans)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


class _Pack:
    """Rows side by side, each after its prefix, which is there once for all that follow one another with the same."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.places: list[tuple[int, int, int]] = []  # each token's position, prefix and row, as `Packs.of` takes them
        self._prefix: list[int] = []
        self._group = self._last = 0  # the prefix's number, and the column of its last token

    def add(self, row: Sequence[int], start: int, end: int, number: int) -> list[int]:
        """Append a row with its number; returns the columns whose states predict its tokens from `start` to `end`."""
        prefix = list(row[:start])
        if not self.ids or prefix != self._prefix:
            self._prefix, self._group, self._last = prefix, number, len(self.ids) + start - 1
            self._append(row, 0, start, 0)
        first = len(self.ids)
        self._append(row, start, end, number)
        return [self._last, *range(first, len(self.ids))][: end - start]

    def add_whole(self, row: Sequence[int], start: int, end: int, number: int) -> list[int]:
        """The same for a row with its prefix."""
        first = len(self.ids)
        self._append(row, 0, end, number)
        return list(range(first + start - 1, first + end - 1))

    def _append(self, row: Sequence[int], start: int, end: int, number: int) -> None:
        self.ids += row[start:end]
        self.places += [(position, self._group, number) for position in range(start, end)]


def _packed(
    rows: Sequence[Sequence[int]], spans: Sequence[Span], arrangement: Arrangement, pad_id: int, device: Any
) -> tuple[IntArray, IntArray, Packs]:
    """Ids [B, L], and the indices of the states that predict what is scored."""
    packs = [_Pack() for _ in arrangement.packs]
    of_row = [b for b, count in enumerate(arrangement.packs) for _ in range(count)]
    add = _Pack.add_whole if arrangement.whole else _Pack.add
    columns = [
        add(packs[b], row, *span, number)
        for number, (row, span, b) in enumerate(zip(rows, spans, of_row, strict=True), start=1)
    ]
    ids_BL = _padded([pack.ids for pack in packs], pad_id)
    place_BL3 = np.zeros((*ids_BL.shape, 3), dtype=np.int64)
    for b, pack in enumerate(packs):
        place_BL3[b, : len(pack.places)] = pack.places
    states = [b * ids_BL.shape[1] + column for b, some in zip(of_row, columns, strict=True) for column in some]
    place = torch.from_numpy(place_BL3).to(device)
    return ids_BL, np.array(states, dtype=np.int64), Packs(place[:, :, 0]) if arrangement.whole else Packs.of(place)
