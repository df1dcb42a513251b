"""Knapsack RL (2509.25849): spends rollouts where they are worth the most.

A prompt of pass rate p with N rollouts is worth (1 - p^N - (1-p)^N) * p (1-p)^2: the probability that the rewards of
the group differ, times the gain expected if they do. Adding rollouts one by one where the marginal value is highest
maximizes the sum for a fixed total, because the marginal value falls with N. Choice: p is the running pass rate with
one correct and one wrong rollout added, so 0.5 for an unseen prompt.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import BudgetAllocator, State, StrategyParams
from strategies.errors import StrategyError
from strategies.history import PromptHistory
from strategies.registry import register
from strategies.types import FloatArray, Group, Prompt, RunInfo, StepContext


def marginal(p: float, rollouts: int) -> float:
    """What one more rollout is worth after `rollouts`.

    >>> [marginal(0.5, rollouts) for rollouts in (2, 3, 4)]
    [0.03125, 0.015625, 0.0078125]
    """
    return (p**rollouts * (1 - p) + (1 - p) ** rollouts * p) * p * (1 - p) ** 2


def greedy(p_n: FloatArray, total: int, minimum: int) -> list[int]:
    """Rollouts that sum to `total`, each at least `minimum`, of maximum total value; ties go to the earlier prompt.

    >>> import numpy as np
    >>> greedy(np.array([0.1, 0.5, 0.9]), total=24, minimum=2)
    [15, 7, 2]
    """
    counts = [minimum] * len(p_n)
    heap = [(-marginal(float(p), minimum), i) for i, p in enumerate(p_n)]
    heapq.heapify(heap)
    for _ in range(total - minimum * len(p_n)):
        _, i = heap[0]
        counts[i] += 1
        heapq.heapreplace(heap, (-marginal(float(p_n[i]), counts[i]), i))
    return counts


@register("knapsack")
class Knapsack(BudgetAllocator):
    """Assigns rollouts by marginal value, given each prompt's running pass rate."""

    paper = "2509.25849"

    class Params(StrategyParams):
        """The lower bound."""

        minimum: int = Field(2, ge=2, le=2**16, description="minimum number of rollouts per prompt")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if params.minimum > run.num_generations:
            raise StrategyError(
                f"budget 'knapsack': minimum={params.minimum} exceeds num_generations={run.num_generations}, "
                "the mean number of rollouts per prompt; reduce it"
            )

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.history = PromptHistory(run.num_prompts)

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        p_n = self.history.pass_rate(np.array([prompt.index for prompt in prompts]), prior=1.0)
        return greedy(p_n, total, self.params.minimum)

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self.history.add(groups)

    def state_dict(self) -> State:
        return self.history.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.history.load_state_dict(state)
