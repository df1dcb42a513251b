"""Rollout budgets by difficulty, E3 (2505.18573).

At the end of each epoch all prompts are sorted by their mean reward so far, highest first (a prompt never rolled out
has mean 0); the difficulty k of a prompt is its position in that order, divided by the number of prompts. In the first
epoch every k is 0 and every prompt gets G rollouts. After that a prompt gets floor(G_min + rem * w), where rem is the
total minus G_min for every prompt, and w = k / (sum of k + 1e-8), as in the public code: a share that would be an exact
integer falls just below it and loses one. Rollouts that rounding down leaves over go to the hardest prompts first, up
to G_max each.

Choices: the bounds move by 2 an epoch towards 4 and 12 for G = 8, in proportion for other G; the proportional share may
exceed G_max unless `cap` is set; with `seed_with_rank` the first epoch takes k from the dataset's `rank` column (larger
is harder, missing counts as 0) and already uses the bounds of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import BudgetAllocator, State, StrategyParams
from strategies.errors import StrategyError
from strategies.history import PromptHistory, restored
from strategies.registry import register
from strategies.types import FloatArray, Group, IntArray, Prompt, RunInfo, StepContext, StepReport


def positions_by_reward(mean_reward_P: FloatArray) -> IntArray:
    """Position of every prompt, int32 [P], when sorted by mean reward, highest first; ties in dataset order.

    >>> import numpy as np
    >>> positions_by_reward(np.array([0.25, 1.0, 0.0, 0.25])).tolist()
    [1, 0, 3, 2]
    """
    count = len(mean_reward_P)
    position_P = np.empty(count, dtype=np.int32)
    position_P[np.argsort(-mean_reward_P, kind="stable")] = np.arange(count, dtype=np.int32)
    return position_P


def ranks(prompts: Sequence[Prompt]) -> FloatArray:
    """The `rank` column of some prompts, 0 where it is missing; raises StrategyError if one is negative or infinite."""
    rank_n = np.array([0.0 if prompt.rank is None else prompt.rank for prompt in prompts])
    wrong = np.flatnonzero(~np.isfinite(rank_n) | (rank_n < 0))
    if len(wrong):
        first = prompts[wrong[0]]
        raise StrategyError(f"budget 'e3': prompt '{first.id}' has rank={first.rank}; a rank must be finite and >= 0")
    return rank_n


def budgets(k_n: FloatArray, total: int, low: int, high: int, cap: bool = False) -> IntArray:
    """Rollouts [n] that sum to `total`, each at least `low`, never fewer for a harder prompt.

    >>> import numpy as np
    >>> budgets(np.array([0.0, 0.2, 0.4, 0.6, 0.8]), total=40, low=6, high=10).tolist()
    [6, 6, 8, 10, 10]
    """
    k_n = np.asarray(k_n, dtype=np.float64)
    share_n = k_n / (k_n.sum() + 1e-8)
    counts_n: IntArray = np.floor(low + (total - low * len(k_n)) * share_n).astype(np.int64)
    if cap:
        counts_n = np.minimum(counts_n, high)
    left = total - int(counts_n.sum())
    hardest_first = np.argsort(-k_n, kind="stable")
    for i in hardest_first:
        extra = min(left, max(high - int(counts_n[i]), 0))
        counts_n[i] += extra
        left -= extra
    # Rollouts are left only if every prompt has reached `high`; they are dealt out one by one, hardest first.
    for i in range(left):
        counts_n[hardest_first[i % len(k_n)]] += 1
    return counts_n


@register("e3")
class E3Budget(BudgetAllocator):
    """Gives more rollouts to prompts with a lower mean reward, within bounds that widen each epoch."""

    paper = "2505.18573"
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "g_min": ("rollouts", "minimum rollouts per prompt in this epoch"),
        "g_max": (
            "rollouts",
            "maximum rollouts per prompt in this epoch; the proportional share may exceed it unless cap is set",
        ),
    }

    class Params(StrategyParams):
        """Choices where the paper is silent."""

        cap: bool = Field(False, description="also limit the proportional share to G_max")
        seed_with_rank: bool = Field(False, description="use the `rank` column as the difficulty in the first epoch")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if params.seed_with_rank and "rank" not in run.columns:
            raise StrategyError("budget 'e3': seed_with_rank needs a column 'rank', which the dataset lacks; add it")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        g = run.num_generations
        self.history = PromptHistory(run.num_prompts)
        self.position_P: IntArray = np.zeros(run.num_prompts, dtype=np.int32)  # half the memory of k, and exact
        self.epochs_ended = 0
        self.widening = max(1, round(g / 4))
        self.lowest = max(self.minimum, g // 2)
        self.highest = g + (g - self.lowest)

    @property
    def bounds(self) -> tuple[int, int]:
        """G_min and G_max of the current epoch."""
        g = self.run.num_generations
        widened = self.widening * max(self.epochs_ended, int(self.params.seed_with_rank))
        return max(g - widened, self.lowest), min(g + widened, self.highest)

    def difficulty(self, prompts: Sequence[Prompt]) -> FloatArray:
        """k of each prompt, float64 [n]: larger is harder."""
        if self.params.seed_with_rank and not self.epochs_ended:
            return ranks(prompts)
        return np.asarray(self.position_P[[prompt.index for prompt in prompts]] / self.run.num_prompts)

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        low, high = self.bounds
        low = min(low, total // len(prompts))
        return [int(count) for count in budgets(self.difficulty(prompts), total, low, high, self.params.cap)]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self.history.add(groups)

    def end_step(self, report: StepReport) -> None:
        if report.epochs_ended:
            self.position_P = positions_by_reward(self.history.mean_reward())
            self.epochs_ended += report.epochs_ended

    def metrics(self) -> dict[str, float]:
        low, high = self.bounds
        return {"g_min": float(low), "g_max": float(high)}

    def state_dict(self) -> State:
        return {
            "history": self.history.state_dict(),
            "position": self.position_P.copy(),
            "epochs_ended": self.epochs_ended,
        }

    def load_state_dict(self, state: State) -> None:
        self.history.load_state_dict(state["history"])
        self.position_P = restored(state["position"], self.position_P)
        self.epochs_ended = state["epochs_ended"]
