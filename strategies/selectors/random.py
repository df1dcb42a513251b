"""Uniform choice among the candidates: the baseline of PREPO (2511.00794).

It spends the same stream of candidates as the selectors it is compared with: K of every B, the rest used up.
"""

from __future__ import annotations

from strategies.base import Selector
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Prompt, PromptSource, StepContext


@register("random")
class Random(Selector):
    """A uniformly random share of each candidate batch."""

    paper = "2511.00794"
    Params = CandidateParams

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        chosen = ctx.rng("selector/random").choice(len(candidates), size=n, replace=False)
        return [candidates[i] for i in sorted(chosen)]
