"""`calibrated` with the worth of a visit divided by the tokens it is expected to cost, for the study's ablation.

The tokens of a completion are the mean of the prompt's own, of which older ones count less, shrunk to its source's
mean, and that to the mean of all; the prompt's tokens are shared by its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from strategies.base import State
from strategies.history import restored
from strategies.selectors.calibrated import Calibrated, rows
from strategies.types import FloatArray, Group, Prompt, RunInfo, StepContext

DECAY, SOURCE_DECAY, ALL_DECAY = 0.7, 0.99, 0.999
"""What earlier tokens still count after each group: a prompt's, its source's, all."""
OWN_PRIOR, SOURCE_PRIOR = 2.0, 8.0
"""Completions of mean length that a prompt and a source start with."""
FIRST_GUESS = 20.0


class PerToken(Calibrated):
    """Keeps the candidates most likely to give differing rewards per token."""

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.tokens_P = np.zeros(run.num_prompts)
        self.completions_P = np.zeros(run.num_prompts)
        self.by_source: dict[str, tuple[float, float]] = {}
        self.tokens, self.completions = 0.0, 0.0

    def worth(self, prompts: Sequence[Prompt], differ_B: FloatArray, step: int) -> FloatArray:
        return super().worth(prompts, differ_B, step) / self.expected_tokens(prompts)

    def expected_tokens(self, prompts: Sequence[Prompt]) -> FloatArray:
        """Tokens [B] of a completion, with its share of the prompt's."""
        mean = (self.tokens + FIRST_GUESS) / (self.completions + 1)
        sources = [self.by_source.get(prompt.source, (0.0, 0.0)) for prompt in prompts]
        of_source_B = np.array([(t + SOURCE_PRIOR * mean) / (c + SOURCE_PRIOR) for t, c in sources])
        index_B = rows(prompts)
        own_B = (self.tokens_P[index_B] + OWN_PRIOR * of_source_B) / (self.completions_P[index_B] + OWN_PRIOR)
        return np.asarray(own_B + np.array([p.num_tokens for p in prompts]) / self.run.num_generations)

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        super().observe(groups, ctx)
        for group in groups:
            index, source = group.prompt.index, group.prompt.source
            tokens, count = sum(c.num_tokens for c in group.completions), len(group.completions)
            self.tokens_P[index] = DECAY * self.tokens_P[index] + tokens
            self.completions_P[index] = DECAY * self.completions_P[index] + count
            earlier, counted = self.by_source.get(source, (0.0, 0.0))
            self.by_source[source] = (SOURCE_DECAY * earlier + tokens, SOURCE_DECAY * counted + count)
            self.tokens, self.completions = ALL_DECAY * self.tokens + tokens, ALL_DECAY * self.completions + count

    def state_dict(self) -> State:
        sums = {"tokens": self.tokens_P.copy(), "completions": self.completions_P.copy()}
        return super().state_dict() | sums | {"by_source": self.by_source, "all": (self.tokens, self.completions)}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.tokens_P = restored(state["tokens"], self.tokens_P)
        self.completions_P = restored(state["completions"], self.completions_P)
        self.by_source = {source: (float(t), float(c)) for source, (t, c) in state["by_source"].items()}
        self.tokens, self.completions = state["all"]
