"""A key-value cache that grows in place, and whose rows come and go.

Rows are aligned at their last token: a row that has fewer tokens than the cache has columns begins with columns that
the attention mask hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

Part = tuple[Any, Tensor]
"""A layer and the rows that are taken from it; a row may be repeated."""


def allocated(width: int) -> int:
    """Columns that are allocated for `width` tokens: spare ones, so that most steps copy nothing."""
    return width + max(64, width // 8)


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` in buffers with spare capacity: appending a token copies that token, not the whole cache."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append key and value states [B, heads, new, dim] and return all states so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < new:
            self._grow(key_states, value_states, old, allocated(new))
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self.keys, self.values = (buffer[:, :, :new] for buffer in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows of the batch; a row may be repeated."""
        self.regroup([(self, beam_idx)], self.get_seq_length())

    def regroup(self, parts: Sequence[Part], width: int) -> None:
        """Replace the rows by those of all parts, each cut or filled on its left to `width` columns."""
        keys = _aligned([(layer.keys, rows) for layer, rows in parts], width, allocated(width))
        values = _aligned([(layer.values, rows) for layer, rows in parts], width, allocated(width))
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :width], values[:, :, :width]

    def reset(self) -> None:
        """Free the states."""
        super().reset()
        self._buffers = None

    def _grow(self, key_states: Tensor, value_states: Tensor, old: int, capacity: int) -> None:
        grown = []
        for states, past in ((key_states, self.keys), (value_states, self.values)):
            buffer = states.new_empty((*states.shape[:2], capacity, states.shape[-1]))
            if old and past is not None:
                buffer[:, :, :old] = past
            grown.append(buffer)
        self._buffers = (grown[0], grown[1])


def growing_cache(config: Any) -> DynamicCache:
    """The architecture's own cache, with its plain layers replaced by growing ones."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_regroup(cache: DynamicCache) -> bool:
    """Whether rows can join a batch that is being decoded; not with recurrent states, for example."""
    return all(type(layer) in (GrowingLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def regroup(cache: DynamicCache, parts: Sequence[tuple[DynamicCache, Tensor]], width: int) -> None:
    """Make `cache` consist of rows of several caches, itself among them if it is to keep any.

    The others are emptied, layer by layer, so that memory holds no layer twice but the one being copied.
    """
    for number, layer in enumerate(cache.layers):
        of_layer: list[Part] = [(part.layers[number], rows) for part, rows in parts]
        if not all(source.is_initialized for source, _ in of_layer):
            continue  # an architecture whose layers share keys and values
        if isinstance(layer, GrowingLayer):
            layer.regroup(of_layer, width)
        else:
            _regroup_window(layer, of_layer, width)
        for source, _ in of_layer:
            if source is not layer:
                source.reset()


def _regroup_window(layer: Any, parts: Sequence[Part], width: int) -> None:
    columns = min(width, layer.sliding_window - 1)
    keys = _aligned([(source.keys, rows) for source, rows in parts], columns, columns)
    values = _aligned([(source.values, rows) for source, rows in parts], columns, columns)
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
    layer.keys, layer.values, layer.cumulative_length = keys, values, width


def _aligned(parts: Sequence[tuple[Tensor, Tensor]], width: int, capacity: int) -> Tensor:
    """The chosen rows of all tensors [B, heads, columns, dim], their last columns ending at `width`.

    What is before is zero, as the mask only hides what is finite.
    """
    first, count = parts[0][0], sum(len(rows) for _, rows in parts)
    result = first.new_empty((count, first.shape[1], capacity, first.shape[3]))
    start = 0
    for states, rows in parts:
        columns = min(width, states.shape[2])
        into = result[start : start + len(rows)]
        into[:, :, : width - columns] = 0
        torch.index_select(states[:, :, states.shape[2] - columns :], 0, rows, out=into[:, :, width - columns : width])
        start += len(rows)
    return result
