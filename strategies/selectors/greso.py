"""GRESO (2506.02177): skip, before rollout, prompts whose last visits had zero variance.

A visit is `easy` (all rewards equal, all correct), `hard` (all equal, not all correct) or `mixed`. A prompt whose last
`streak` visits have the same label is rolled out with probability max(p_label ^ streak, 0.01); unseen and mixed prompts
always are. From the second epoch on, p_easy and p_hard change by 0.01 after each step: down if the share of that label
among all groups rolled out in the step reaches its target, else up.

Differences from the public code: the label itself is stored instead of a threshold on the mean reward, which is right
for eight rollouts only; random numbers derive from the run's seed; all state is in the checkpoint; and only
the number of prompts still missing is taken from the stream, so that none are wasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State, StrategyParams
from strategies.history import restored
from strategies.registry import register
from strategies.types import FloatArray, Group, IntArray, Prompt, PromptSource, RunInfo, StepContext, StepReport

MIXED, EASY, HARD = 0, 1, 2
LONGEST = np.iinfo(np.uint16).max


def label_of(group: Group) -> int:
    """MIXED, EASY or HARD."""
    if not group.zero_variance:
        return MIXED
    return EASY if group.num_correct == len(group.completions) else HARD


def roll_probability(streak_N: IntArray, base_N: FloatArray, minimum: float = 0.01) -> FloatArray:
    """Probability of rolling out prompts, given their streaks and the base probabilities p of their labels.

    >>> import numpy as np
    >>> roll_probability(np.array([0, 1, 3, 6, 7]), np.full(5, 0.5)).tolist()
    [1.0, 0.5, 0.125, 0.015625, 0.01]
    """
    return np.asarray(np.maximum(base_N**streak_N, minimum))


@register("greso")
class Greso(Selector):
    """Skips prompts whose last visits had zero variance, with a probability that adapts to their share."""

    paper = "2506.02177"
    companions = {"filter": "nonzero-variance"}  # noqa: RUF012  (declared ClassVar in the base)
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "p_easy": ("probability", "p: a prompt all correct at its last z visits is rolled out with probability p^z"),
        "p_hard": ("probability", "p: a prompt all wrong at its last z visits is rolled out with probability p^z"),
        "easy_share": ("share", "share of the step's groups that are all correct"),
        "hard_share": ("share", "share of the step's groups that are all wrong"),
        "skipped_share": ("share", "share of the prompts drawn in the step that were skipped without a rollout"),
    }

    class Params(StrategyParams):
        """The paper's settings."""

        p_easy: float = Field(0.5, ge=0.05, le=0.95, description="initial base probability of easy prompts")
        p_hard: float = Field(0.5, ge=0.05, le=0.95, description="initial base probability of hard prompts")
        target: float = Field(0.25, ge=0, le=1, description="target share of zero-variance groups")
        easy_share: float = Field(1 / 3, ge=0, le=1, description="share of the target assigned to easy groups")
        step: float = Field(0.01, ge=0, le=0.5, description="change of a base probability per step")
        minimum: float = Field(0.01, gt=0, le=1, description="minimum probability of rolling out a prompt")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.labels_P = np.zeros(run.num_prompts, dtype=np.int8)
        self.streaks_P = np.zeros(run.num_prompts, dtype=np.uint16)
        self.p_easy, self.p_hard = float(params.p_easy), float(params.p_hard)
        self._rolled = np.zeros(3, dtype=np.int64)  # groups of this step by label
        self._seen: set[int] = set()  # prompts that this step has taken,
        self._chosen: set[int] = set()  # and those of them that it rolls out
        self._taken = self._skipped = 0
        self._last: dict[str, float] = {}

    def probability(self, index_N: IntArray) -> FloatArray:
        """Probability of rolling out some prompts, [N]."""
        base_N = np.array([1.0, self.p_easy, self.p_hard])[self.labels_P[index_N]]
        return roll_probability(self.streaks_P[index_N], base_N, self.params.minimum)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        rng = ctx.rng("selector/greso")
        chosen: list[Prompt] = []
        while len(chosen) < n:
            prompts = source.take(n - len(chosen))
            self._seen.update(prompt.index for prompt in prompts)
            rolls_N = rng.random(len(prompts)) < self.probability(np.array([p.index for p in prompts]))
            chosen += [
                prompt for prompt, roll in zip(prompts, rolls_N, strict=True) if roll and self._may_choose(prompt)
            ]
            self._taken += len(prompts)
            self._skipped += int(len(prompts) - rolls_N.sum())
        return chosen

    def _may_choose(self, prompt: Prompt) -> bool:
        """Whether the prompt is not yet chosen in this step, or all others are chosen too."""
        if prompt.index in self._chosen and len(self._chosen) < len(self._seen):
            return False
        self._chosen.add(prompt.index)
        return True

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        for group in groups:
            index, label = group.prompt.index, label_of(group)
            streak = int(self.streaks_P[index]) if label == self.labels_P[index] else 0
            self.labels_P[index] = label
            self.streaks_P[index] = 0 if label == MIXED else min(streak + 1, LONGEST)
            self._rolled[label] += 1

    def end_step(self, report: StepReport) -> None:
        total = int(self._rolled.sum())
        easy, hard = (float(self._rolled[label]) / total if total else 0.0 for label in (EASY, HARD))
        if report.epoch >= 1 and total:
            target = self.params.target
            self.p_easy = self._moved(self.p_easy, easy, target * self.params.easy_share)
            self.p_hard = self._moved(self.p_hard, hard, target * (1 - self.params.easy_share))
        self._last = {
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
            "easy_share": easy,
            "hard_share": hard,
            "skipped_share": self._skipped / self._taken if self._taken else 0.0,
        }
        self._rolled[:] = 0
        self._seen.clear()
        self._chosen.clear()
        self._taken = self._skipped = 0

    def _moved(self, p: float, share: float, target: float) -> float:
        # 0.25 * (1 - 1/3) rounds to just above 1/6, which a share of exactly one sixth would miss.
        down = share >= target - 1e-12
        return float(np.clip(p - self.params.step if down else p + self.params.step, 0.05, 0.95))

    def metrics(self) -> dict[str, float]:
        return self._last

    def state_dict(self) -> State:
        return {
            "labels": self.labels_P.copy(),
            "streaks": self.streaks_P.copy(),
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
        }

    def load_state_dict(self, state: State) -> None:
        self.labels_P = restored(state["labels"], self.labels_P)
        self.streaks_P = restored(state["streaks"], self.streaks_P)
        self.p_easy, self.p_hard = float(state["p_easy"]), float(state["p_hard"])
