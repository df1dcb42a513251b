"""The policy as selectors query it: the perplexity of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from prepo_cli.data.prompts import Prompts
from prepo_cli.training.team import Team
from strategies.types import FloatArray, Prompt


class PolicyProbe:
    """Asks the current policy, in all processes."""

    def __init__(self, team: Team, prompts: Prompts) -> None:
        self.team, self.prompts = team, prompts
        self._scored: dict[int, float] = {}

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt [N] at temperature 1."""
        rendered = [self.prompts.rendered(prompt.index) for prompt in prompts]
        spans = [r.scored_span(scope) for r in rendered]
        ppl_N = self.team.perplexity([list(r.token_ids) for r in rendered], spans)[:, 0]
        self._scored.update(zip((prompt.index for prompt in prompts), ppl_N.tolist(), strict=True))
        return ppl_N

    def take_scored(self) -> dict[int, float]:
        """Perplexity of each prompt scored since the last call, by its row."""
        scored, self._scored = self._scored, {}
        return scored
