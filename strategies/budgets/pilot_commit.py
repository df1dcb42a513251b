"""Pilot rollouts first, the rest where the pilots disagree (2605.26606).

Each prompt gets n0 pilots; the remaining rollouts are split in proportion to the observed reward variance, by largest
remainder, with at most `maximum` rollouts per prompt. Choice: if no prompt's rewards differ, the remaining rollouts are
not generated, because there is no evidence of where they would pay off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import BudgetAllocator, StrategyParams
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.types import FloatArray, Group, IntArray, Prompt, RunInfo, StepContext


def proportional(weight_n: FloatArray, room_n: IntArray, total: int) -> IntArray:
    """Whole numbers in proportion to the weights, none above its room, that sum to `total` if the room allows.

    >>> import numpy as np
    >>> proportional(np.array([4.0, 3.0, 0.0]), room_n=np.array([20, 20, 20]), total=16).tolist()
    [9, 7, 0]
    >>> proportional(np.array([4.0, 3.0, 0.0]), room_n=np.array([5, 20, 20]), total=16).tolist()
    [5, 11, 0]
    """
    given_n = np.zeros(len(weight_n), dtype=np.int64)
    open_n = (weight_n > 0) & (room_n > 0)
    left = min(total, int(room_n[open_n].sum()))
    while left > 0:
        ideal_n = np.where(open_n, weight_n, 0.0) * (left / float(weight_n[open_n].sum()))
        whole_n = np.minimum(np.floor(ideal_n).astype(np.int64), room_n - given_n)
        given_n += whole_n
        left -= int(whole_n.sum())
        open_n &= given_n < room_n
        by_remainder = np.argsort(-np.where(open_n, ideal_n - np.floor(ideal_n), -1.0), kind="stable")
        lucky = by_remainder[: min(left, int(open_n.sum()))]
        if len(lucky) == left:
            given_n[lucky] += 1
            left = 0
    return given_n


@register("pilot-commit")
class PilotCommit(BudgetAllocator):
    """Gives each prompt a few pilot rollouts, then splits the rest in proportion to the pilots' reward variance."""

    paper = "2605.26606"

    class Params(StrategyParams):
        """Number of pilots, and upper bound."""

        pilots: int | None = Field(
            None, ge=2, le=2**16, description="pilot rollouts per prompt (default: half of num_generations)"
        )
        maximum: int | None = Field(
            None, ge=2, le=2**16, description="maximum number of rollouts per prompt (default: 4 x num_generations)"
        )

        def resolved(self, num_generations: int) -> tuple[int, int]:
            """Pilots and maximum number of rollouts per prompt, defaults filled in."""
            return self.pilots or max(2, num_generations // 2), self.maximum or 4 * num_generations

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        pilots, maximum = params.resolved(run.num_generations)
        if pilots >= run.num_generations:
            raise StrategyError(
                f"budget 'pilot-commit': {pilots} pilots leave no rollouts of "
                f"num_generations={run.num_generations} to commit; use fewer pilots or more generations"
            )
        if maximum <= pilots:
            raise StrategyError(
                f"budget 'pilot-commit': maximum={maximum} leaves no room above {pilots} pilots; raise it"
            )

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.pilots, self.maximum = params.resolved(run.num_generations)

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        return [min(self.pilots, total // len(prompts))] * len(prompts)

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        # The variance of equal rewards need not round to 0, as that of six times 0.1 does not.
        variance_n = np.array([0.0 if group.zero_variance else float(group.rewards_N.var()) for group in groups])
        room_n = np.array([max(self.maximum - len(group.completions), 0) for group in groups])
        return [int(count) for count in proportional(variance_n, room_n, remaining)]
