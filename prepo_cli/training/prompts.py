"""The training set as token ids, and the perplexity probe over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Rendered, Renderer
from strategies.types import FloatArray, Prompt

CACHED_PROMPTS = 16384


class Prompts:
    """Renders prompts when they are needed and caches recent ones; leaves out prompts that are too long."""

    def __init__(self, dataset: PromptDataset, renderer: Renderer, max_length: int) -> None:
        self.dataset, self.renderer, self.max_length = dataset, renderer, max_length
        self.rendered = lru_cache(maxsize=CACHED_PROMPTS)(self._render)

    def get(self, index: int) -> Prompt | None:
        """The prompt of a row, or None if it is longer than `max_length` tokens."""
        return self.dataset.prompt(index) if len(self.rendered(index).token_ids) <= self.max_length else None

    def _render(self, index: int) -> Rendered:
        return self.renderer(self.dataset.messages(index))


class PolicyProbe:
    """The policy as selectors query it. `score` returns perplexity and number of scored tokens per row, [N, 2]."""

    def __init__(
        self, score: Callable[[list[list[int]], list[tuple[int, int]]], npt.NDArray[np.float64]], prompts: Prompts
    ) -> None:
        self.score, self.prompts = score, prompts

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt [N] at temperature 1."""
        rendered = [self.prompts.rendered(prompt.index) for prompt in prompts]
        return self.score([list(r.token_ids) for r in rendered], [r.scored_span(scope) for r in rendered])[:, 0]
