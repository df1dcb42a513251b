"""The parameter shared by all selectors that choose among candidates."""

from __future__ import annotations

import math

from pydantic import Field

from strategies.base import StrategyParams
from strategies.types import RunInfo


class CandidateParams(StrategyParams):
    """`ratio` is K / B, the share of the candidates that is kept."""

    ratio: float = Field(0.2, ge=1e-4, le=1, description="kept prompts / candidate prompts (K / B)")

    def candidates(self, n: int, run: RunInfo) -> int:
        """B, how many candidates to draw for n kept: at most one pass over the training set, at least n.

        >>> run = RunInfo(num_prompts=100, total_steps=1, prompts_per_step=64, num_generations=8)
        >>> [CandidateParams(ratio=0.25).candidates(n, run) for n in (10, 64, 200)]
        [40, 100, 200]
        """
        return max(n, min(math.ceil(n / self.ratio - 1e-9), run.num_prompts))

    def notes(self, run: RunInfo) -> list[str]:
        """Note on a training set smaller than B."""
        kept, wanted = run.prompts_per_step, math.ceil(run.prompts_per_step / self.ratio - 1e-9)
        if wanted <= run.num_prompts:
            return []
        if kept >= run.num_prompts:
            return [
                f"the training set has {run.num_prompts:,} prompts and a step needs {kept:,}, so there is "
                "nothing to select"
            ]
        return [
            f"the training set has {run.num_prompts:,} prompts, fewer than the {wanted:,} candidates of a step; "
            f"candidates are limited to one pass, of which {kept:,} are kept: a ratio of {kept / run.num_prompts:.2f} "
            f"instead of {self.ratio:g}"
        ]
