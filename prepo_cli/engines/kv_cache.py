"""A key-value cache that grows in place: appending a token copies that token instead of the whole cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` in buffers with spare capacity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append key and value states [B, heads, new, dim] and return all states so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < new:
            self._grow(key_states, value_states, old, new + max(64, new // 2))
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self.keys, self.values = (buffer[:, :, :new] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Select rows of the batch; a row may be repeated."""
        if self._buffers is None:
            super().batch_select_indices(indices)
            return
        length = self.get_seq_length()
        keys, values = (buffer.index_select(0, indices) for buffer in self._buffers)  # spare capacity too
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def _grow(self, key_states: torch.Tensor, value_states: torch.Tensor, old: int, capacity: int) -> None:
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
