"""The parameter that every select-from-candidates strategy shares."""

from __future__ import annotations

import math

from pydantic import Field

from strategies.base import StrategyParams


class CandidateParams(StrategyParams):
    """`ratio` is K / B, the share of the candidates that is kept."""

    ratio: float = Field(0.2, gt=0, le=1, description="kept prompts / candidate prompts (K / B)")

    def candidates(self, n: int) -> int:
        """B, how many candidates to draw for n kept."""
        return max(n, math.ceil(n / self.ratio - 1e-9))
