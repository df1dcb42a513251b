"""Rounds of select, allocate, roll out, top up, observe and filter, until a step's batch is full.

Whatever rolls out - prepo's engines, or another trainer - is given as a function. There are rounds after the first only
if the filter refills; their size follows GRESO's public code (2506.02177): int(1.25 * missing / (1 - zero-variance
share so far)), at most a full round, at least one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol

from prepo_cli.data.stream import PromptStream
from prepo_cli.training.rollouts import Collected, R, record
from prepo_cli.training.stopwatch import Stopwatch
from strategies import StrategySet
from strategies.types import Prompt, StepContext

OVERSAMPLE = 1.25


class Roll(Protocol[R]):
    """Rolls out and judges `counts` rollouts of each prompt: a list for each, shorter or empty where some failed."""

    def __call__(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[R]]: ...


@dataclass(frozen=True)
class BatchShape:
    """How many groups a step trains on, of how many rollouts on average, and in how many rounds it may look for them.

    With `mask_truncated`, truncated rollouts count in their group's advantages, but are not trained on.
    """

    prompts_per_step: int
    num_generations: int
    max_rounds: int
    mask_truncated: bool = False


class Rounds(Generic[R]):
    """Fills a training batch."""

    def __init__(self, strategies: StrategySet, stream: PromptStream, shape: BatchShape, roll: Roll[R]) -> None:
        self.strategies, self.stream, self.shape, self.roll = strategies, stream, shape, roll

    def collect(self, ctx: StepContext, watch: Stopwatch) -> Collected[R]:
        """Roll out until `prompts_per_step` groups are kept, or the rounds are used up."""
        wanted = self.shape.prompts_per_step
        step = Collected[R]()
        self.stream.begin_step()
        while True:
            ctx = replace(ctx, round=step.rounds)
            groups = self._round(refill_size(step, wanted), ctx, watch)
            with watch.phase("select"):
                self._filter(groups, ctx, wanted - len(step.kept))
            step.groups += groups
            step.rounds += 1
            full = len(step.kept) >= wanted
            if full or not self.strategies.filter.refills or step.rounds >= self.shape.max_rounds:
                return step

    def _round(self, size: int, ctx: StepContext, watch: Stopwatch) -> list[list[R]]:
        """Roll out until the round's rollouts are used up or the budget strategy stops topping up.

        A prompt all of whose rollouts failed has no group.
        """
        strategies, total = self.strategies, size * self.shape.num_generations
        with watch.phase("select"):
            prompts = self.stream.without_repeats(strategies.select(size, self.stream, ctx))
            counts = strategies.allocate(prompts, total, ctx)
        groups: list[list[R]] = [[] for _ in prompts]
        while any(counts):
            for group, fresh in zip(groups, self.roll(prompts, counts, ctx), strict=True):
                group += fresh
            rolled = [group for group in groups if group]
            remaining = total - sum(map(len, rolled))
            if remaining <= 0 or not rolled:
                break
            with watch.phase("select"):
                further = iter(strategies.top_up([record(group) for group in rolled], remaining, ctx))
                counts = [next(further) if group else 0 for group in groups]
        groups = [group for group in groups if group]
        with watch.phase("select"):
            strategies.observe([record(group) for group in groups], ctx)
        return groups

    def _filter(self, groups: list[list[R]], ctx: StepContext, missing: int) -> None:
        """Set the fate of every rollout; groups beyond the `missing` ones are surplus."""
        for group in groups:
            shown = record(group)
            mask_N = self.strategies.keep(shown, ctx)
            surplus = bool(mask_N.any()) and missing <= 0
            missing -= bool(mask_N.any())
            for rollout, seen, kept in zip(group, shown.completions, mask_N, strict=True):
                if not kept:
                    rollout.fate = "filtered"
                elif surplus:
                    rollout.fate = "surplus"
                elif self.shape.mask_truncated and seen.truncated:
                    rollout.fate = "masked"


def refill_size(step: Collected[Any], wanted: int) -> int:
    """Number of prompts in the next round: a full round at first, then what will probably fill the batch."""
    if not step.groups:
        return wanted
    zero = sum(record(group).zero_variance for group in step.groups) / len(step.groups)
    if zero >= 1:
        return wanted
    missing = wanted - len(step.kept)
    return max(1, min(wanted, int(OVERSAMPLE * missing / (1 - zero))))
