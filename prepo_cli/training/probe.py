"""The policy as selectors query it: the perplexity of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from prepo_cli.data.prompts import Prompts
from strategies.types import FloatArray, Prompt


class PolicyProbe:
    """Perplexities under the current policy. `score` returns perplexity and number of scored tokens per row, [N, 2]."""

    def __init__(
        self, score: Callable[[list[list[int]], list[tuple[int, int]]], npt.NDArray[np.float64]], prompts: Prompts
    ) -> None:
        self.score, self.prompts = score, prompts

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt [N] at temperature 1."""
        rendered = [self.prompts.rendered(prompt.index) for prompt in prompts]
        return self.score([list(r.token_ids) for r in rendered], [r.scored_span(scope) for r in rendered])[:, 0]
