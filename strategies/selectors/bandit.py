"""SEC (2505.14970): a bandit over categories whose reward is how much there is to learn from a category.

Each `source` is an arm. After a step Q <- alpha r + (1 - alpha) Q, where r is the mean absolute advantage of the arm's
rollouts. The category of each kept prompt is drawn from softmax(Q / tau) over the candidates' arms, and the prompt is
the next candidate of that category in stream order.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Group, Prompt, PromptSource, RunInfo, StepContext, StepReport


def mean_absolute_advantage(group: Group) -> float:
    """Mean of |r - mean| / std over the group, with the sample deviation (n - 1); 0 if all rewards are equal."""
    rewards_N = group.rewards_N
    if group.zero_variance or len(rewards_N) < 2:
        return 0.0
    return float(np.abs(rewards_N - rewards_N.mean()).mean() / (rewards_N.std(ddof=1) + 1e-6))


@register("bandit")
class Bandit(Selector):
    """Prefers categories whose recent advantages were large, drawing each prompt's category from a softmax."""

    paper = "2505.14970"
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "q/*": ("advantage", "a source's value: moving average of the mean absolute advantage of its rollouts"),
    }

    class Params(CandidateParams):
        """Memory and sharpness."""

        alpha: float = Field(0.5, gt=0, le=1, description="weight of the latest step in Q")
        tau: float = Field(1.0, ge=1e-6, le=1e6, description="temperature of the softmax over Q")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if "source" not in run.columns:
            raise StrategyError(
                "selector 'bandit' needs a column 'source' with categories, which the dataset lacks; add it"
            )

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.q: dict[str, float] = {}
        self._seen: dict[str, list[float]] = defaultdict(list)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        rng = ctx.rng("selector/bandit")
        waiting: dict[str, deque[Prompt]] = {}
        for prompt in source.take(self.params.candidates(n, self.run)):
            waiting.setdefault(prompt.source or "", deque()).append(prompt)
        chosen: list[Prompt] = []
        arms = sorted(waiting)
        while len(chosen) < n:
            p = self.probabilities(arms)
            for arm in rng.choice(len(arms), size=n - len(chosen), p=p):
                if waiting[arms[arm]]:
                    chosen.append(waiting[arms[arm]].popleft())
            arms = [arm for arm in arms if waiting[arm]]
        return chosen

    def probabilities(self, arms: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Softmax of Q / tau over some arms, [A]."""
        logits_A = np.array([self.q.get(arm, 0.0) for arm in arms]) / self.params.tau
        weights_A = np.exp(logits_A - logits_A.max())
        return np.asarray(weights_A / weights_A.sum())

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        for group in groups:
            self._seen[group.prompt.source or ""].append(mean_absolute_advantage(group))

    def end_step(self, report: StepReport) -> None:
        for arm, values in self._seen.items():
            old = self.q.get(arm, 0.0)
            self.q[arm] = self.params.alpha * float(np.mean(values)) + (1 - self.params.alpha) * old
        self._seen.clear()

    def metrics(self) -> dict[str, float]:
        return {f"q/{arm or 'none'}": value for arm, value in sorted(self.q.items())}

    def state_dict(self) -> State:
        return {"arms": sorted(self.q), "q": [self.q[arm] for arm in sorted(self.q)]}

    def load_state_dict(self, state: State) -> None:
        self.q = dict(zip(state["arms"], state["q"], strict=True))
