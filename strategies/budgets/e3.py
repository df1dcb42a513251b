"""Rollout budgets by difficulty, E3 (2505.18573).

Difficulty k of a prompt is its position / N when all are sorted by mean reward so far, descending (unseen prompts have
mean 0), taken at each epoch's end; before, k is 0 and everyone gets G. Where `seed_with_rank` is set, the first epoch
takes k from the dataset's `rank` column (>= 0, larger is harder, 0 if missing) and the second epoch's bounds. A prompt
gets floor(G_min + rem * k / sum k); what the floors leave goes to the hardest first, each filled up to G_max.

Choices: the bounds move by 2 towards 4 and 12 for G = 8 and in proportion for other G; the proportional share is not
capped by G_max unless `cap` is set. k is held in float32.
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


def difficulty_ranks(mean_reward_P: FloatArray) -> FloatArray:
    """k of every prompt, float32 [P], in [0, 1): larger is harder; ties in dataset order."""
    count = len(mean_reward_P)
    order = np.argsort(-mean_reward_P, kind="stable")
    k_P = np.empty(count, dtype=np.float32)
    k_P[order] = np.arange(count) / count
    return k_P


def ranks(prompts: Sequence[Prompt]) -> FloatArray:
    """The `rank` column of some prompts, 0 where it is missing; raises StrategyError on what can't be a difficulty."""
    rank_n = np.array([0.0 if prompt.rank is None else prompt.rank for prompt in prompts])
    wrong = np.flatnonzero(~np.isfinite(rank_n) | (rank_n < 0))
    if len(wrong):
        first = prompts[wrong[0]]
        raise StrategyError(f"budget 'e3': prompt '{first.id}' has rank={first.rank}; ranks are finite and >= 0")
    return rank_n


def budgets(k_n: FloatArray, total: int, low: int, high: int, cap: bool = False) -> IntArray:
    """Rollouts [n] that sum to `total`, each at least `low`, never fewer for a harder prompt."""
    k_n = np.asarray(k_n, dtype=np.float64)
    share_n = k_n / k_n.sum() if k_n.sum() > 0 else np.zeros_like(k_n)
    counts_n = np.floor(low + (total - low * len(k_n)) * share_n).astype(np.int64)
    if cap:
        counts_n = np.minimum(counts_n, high)
    left = total - int(counts_n.sum())
    hardest_first = np.argsort(-k_n, kind="stable")
    for i in hardest_first:
        extra = min(left, max(high - int(counts_n[i]), 0))
        counts_n[i] += extra
        left -= extra
    # Only where total exceeds high for every prompt is anything left; it goes round, hardest first.
    for i in range(left):
        counts_n[hardest_first[i % len(k_n)]] += 1
    return counts_n


@register("e3")
class E3Budget(BudgetAllocator):
    """More rollouts for prompts with a lower mean reward, within bounds that widen each epoch."""

    paper = "2505.18573"

    class Params(StrategyParams):
        """Choices where the paper is silent."""

        cap: bool = Field(False, description="cap the proportional share at G_max too")
        seed_with_rank: bool = Field(False, description="take the first epoch's k from the dataset's `rank` column")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if params.seed_with_rank and "rank" not in run.columns:
            raise StrategyError("budget 'e3': seed_with_rank needs a column 'rank', which the dataset has not")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        g = run.num_generations
        self.history = PromptHistory(run.num_prompts)
        self.k_P = np.zeros(run.num_prompts, dtype=np.float32)
        self.epochs_ended = 0
        self.step = max(1, round(g / 4))
        self.lowest = max(self.minimum, g // 2)
        self.highest = g + (g - self.lowest)
        self.low, self.high = self._bounds()

    def _bounds(self) -> tuple[int, int]:
        widened = self.step * max(self.epochs_ended, int(self.params.seed_with_rank))
        g = self.run.num_generations
        return max(g - widened, self.lowest), min(g + widened, self.highest)

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        k_n: FloatArray = self.k_P[[prompt.index for prompt in prompts]]
        if self.params.seed_with_rank and not self.epochs_ended:
            k_n = ranks(prompts)
        low = min(self.low, total // len(prompts))
        return [int(count) for count in budgets(k_n, total, low, self.high, self.params.cap)]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self.history.add(groups)

    def end_step(self, report: StepReport) -> None:
        if report.epoch_ended:
            self.k_P = difficulty_ranks(self.history.mean_reward())
            self.epochs_ended += 1
            self.low, self.high = self._bounds()

    def metrics(self) -> dict[str, float]:
        return {"g_min": float(self.low), "g_max": float(self.high)}

    def state_dict(self) -> State:
        return {
            "history": self.history.state_dict(),
            "k": self.k_P.copy(),
            "low": self.low,
            "high": self.high,
            "epochs_ended": self.epochs_ended,
        }

    def load_state_dict(self, state: State) -> None:
        self.history.load_state_dict(state["history"])
        self.k_P = restored(state["k"], self.k_P)
        self.low, self.high, self.epochs_ended = state["low"], state["high"], state["epochs_ended"]
