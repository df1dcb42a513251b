"""PREPO's baseline (2511.00794): a random choice among the candidates.

It consumes the stream as fast as the selectors it is compared with: K of every B prompts are kept.
"""

from __future__ import annotations

from strategies.base import Selector
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Prompt, PromptSource, StepContext


@register("random")
class Random(Selector):
    """Keeps a random share of the candidates."""

    paper = "2511.00794"
    Params = CandidateParams

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        chosen = ctx.rng("selector/random").choice(len(candidates), size=n, replace=False)
        return [candidates[i] for i in sorted(chosen)]
