"""MoPPS (2507.04632): Thompson sampling from a Beta posterior of each prompt's pass rate.

A visit with k of G rollouts correct sets a <- lam a + (1 - lam) a0 + k and b <- lam b + (1 - lam) b0 + (G - k). Keeps
the candidates whose sampled pass rate is nearest to the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.history import restored
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Group, Prompt, PromptSource, RunInfo, StepContext


@register("mopps")
class Mopps(Selector):
    """Keeps the candidates whose pass rate, sampled from a Beta posterior, is nearest to a target."""

    paper = "2507.04632"

    class Params(CandidateParams):
        """Prior, memory and target."""

        decay: float = Field(0.5, ge=0, le=1, description="share of the posterior counts kept after a visit (lam)")
        prior_a: float = Field(1.0, ge=1e-6, le=1e6, description="prior count of correct rollouts (a0)")
        prior_b: float = Field(1.0, ge=1e-6, le=1e6, description="prior count of wrong rollouts (b0)")
        target: float = Field(0.5, ge=0, le=1, description="target pass rate")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.a_P = np.full(run.num_prompts, params.prior_a, dtype=np.float32)
        self.b_P = np.full(run.num_prompts, params.prior_b, dtype=np.float32)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        index_B = np.array([prompt.index for prompt in candidates])
        drawn_B = ctx.rng("selector/mopps").beta(self.a_P[index_B], self.b_P[index_B])
        nearest = np.argsort((drawn_B - self.params.target) ** 2, kind="stable")[:n]
        return [candidates[i] for i in nearest]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        lam = self.params.decay
        for group in groups:
            index, right = group.prompt.index, group.num_correct
            wrong = len(group.completions) - right
            self.a_P[index] = lam * self.a_P[index] + (1 - lam) * self.params.prior_a + right
            self.b_P[index] = lam * self.b_P[index] + (1 - lam) * self.params.prior_b + wrong

    def state_dict(self) -> State:
        return {"a": self.a_P.copy(), "b": self.b_P.copy()}

    def load_state_dict(self, state: State) -> None:
        self.a_P, self.b_P = restored(state["a"], self.a_P), restored(state["b"], self.b_P)
