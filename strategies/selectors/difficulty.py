"""AdaRFT (2504.05520): keeps the candidates nearest to a target difficulty that follows the mean reward.

After each step T <- T + eta tanh(alpha (mean reward - beta)), within the range of difficulties.
Deviation: the paper's difficulties run from 0 to 100 with eta 50; here T is a position in the range of difficulties
seen so far, 0 to 1, with eta 0.5, so any scale of the `difficulty` column works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Group, Prompt, PromptSource, RunInfo, StepContext, StepReport


@register("difficulty")
class Difficulty(Selector):
    """Keeps the candidates nearest to a target difficulty that rises with the mean reward."""

    paper = "2504.05520"
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "target": ("share", "target difficulty, from the lowest (0) to the highest (1) seen"),
    }

    class Params(CandidateParams):
        """How the target moves."""

        start: float = Field(0.0, ge=0, le=1, description="initial target, as a position in the range of difficulties")
        eta: float = Field(0.5, gt=0, le=1e6, description="maximum change of the target per step")
        alpha: float = Field(2.0, gt=0, le=1e6, description="sensitivity to the mean reward")
        beta: float = Field(0.5, ge=-1e6, le=1e6, description="mean reward at which the target does not move")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if "difficulty" not in run.columns:
            raise StrategyError("selector 'difficulty' needs a column 'difficulty', which the dataset lacks; add it")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.target = float(params.start)
        self.low, self.high = math.inf, -math.inf
        self._reward = 0.0
        self._rollouts = 0

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        unknown = [prompt.id for prompt in candidates if prompt.difficulty is None]
        if unknown:
            raise StrategyError(
                f"selector 'difficulty': prompt '{unknown[0]}' has no value in column 'difficulty'; add it "
                "or remove the prompt"
            )
        values_B = np.array([prompt.difficulty for prompt in candidates], dtype=np.float64)
        self.low, self.high = min(self.low, float(values_B.min())), max(self.high, float(values_B.max()))
        wanted = self.low + self.target * (self.high - self.low)
        return [candidates[i] for i in np.argsort(np.abs(values_B - wanted), kind="stable")[:n]]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self._reward += sum(float(group.rewards_N.sum()) for group in groups)
        self._rollouts += sum(len(group.completions) for group in groups)

    def end_step(self, report: StepReport) -> None:
        if self._rollouts:
            mean = self._reward / self._rollouts
            moved = self.target + self.params.eta * math.tanh(self.params.alpha * (mean - self.params.beta))
            self.target = min(max(moved, 0.0), 1.0)
        self._reward, self._rollouts = 0.0, 0

    def metrics(self) -> dict[str, float]:
        return {"target": self.target}

    def state_dict(self) -> State:
        seen = math.isfinite(self.low)
        return {"target": self.target, "low": self.low if seen else None, "high": self.high if seen else None}

    def load_state_dict(self, state: State) -> None:
        self.target = state["target"]
        self.low = math.inf if state["low"] is None else state["low"]
        self.high = -math.inf if state["high"] is None else state["high"]
