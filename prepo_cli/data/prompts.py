"""A dataset's prompts as token ids."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Rendered, Renderer
from strategies.types import Prompt

CACHED_PROMPTS = 16384


class Prompts:
    """Renders prompts when they are needed and caches recent ones; leaves out prompts that are too long."""

    def __init__(self, dataset: PromptDataset, renderer: Renderer, max_length: int) -> None:
        self.dataset, self.renderer, self.max_length = dataset, renderer, max_length
        self.rendered = lru_cache(maxsize=CACHED_PROMPTS)(self._render)

    def get(self, index: int) -> Prompt | None:
        """The prompt of a row, or None if it is longer than `max_length` tokens."""
        if self.renderer.is_longer(self.dataset.messages(index), self.max_length):
            return None
        length = len(self.rendered(index).token_ids)
        return replace(self.dataset.prompt(index), num_tokens=length) if length <= self.max_length else None

    def _render(self, index: int) -> Rendered:
        return self.renderer(self.dataset.messages(index))
