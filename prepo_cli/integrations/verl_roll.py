"""Rolling out through verl: a plan of prompts and numbers of rollouts, submitted, awaited and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from prepo_cli.integrations.session import Outcome
from prepo_cli.integrations.verl_queue import Tags, read, rename_group
from prepo_cli.rewards.judge import TOLERANCE
from strategies.types import Prompt, StepContext


@dataclass(frozen=True)
class Plan:
    """Prompts to roll out, how often each, and at what temperature; `uids` are what verl calls them by."""

    prompts: list[Prompt]
    counts: list[int]
    temperature: float
    uids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        # As verl makes them: without the underscore that separates the parts of a trajectory's key.
        object.__setattr__(self, "uids", [str(uuid4()) for _ in self.prompts])


@dataclass(frozen=True)
class Limits:
    """A response of `response_length` tokens was cut off; one of this accuracy, or reward, is correct."""

    response_length: int
    correct_reward: float


class Roller:
    """Rolls out a step's prompts.

    Args:
        submit: hands a plan to verl.
        wait: blocks until the prompts with these uids have ended, and returns the tags of all trajectories.
        limits: what counts as truncated, and as correct.
    """

    def __init__(self, submit: Callable[[Plan], None], wait: Callable[[Sequence[str]], Tags], limits: Limits) -> None:
        self._submit, self._wait, self._limits = submit, wait, limits
        self._uids: dict[tuple[int, int], str] = {}
        self.keys: list[list[str]] = []
        """The keys of each rollout's trajectories, by the rollout's `row`."""

    def __call__(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[Outcome]]:
        """Roll out; a prompt has fewer rollouts than asked for, or none, where verl's failed."""
        active = [i for i, count in enumerate(counts) if count]
        plan = Plan([prompts[i] for i in active], [counts[i] for i in active], ctx.temperature)
        self._submit(plan)
        groups: list[list[Outcome]] = [[] for _ in prompts]
        for i, uid, rollouts in zip(active, plan.uids, read(plan.uids, self._wait(plan.uids)), strict=True):
            for rollout in rollouts:
                groups[i].append(
                    Outcome(
                        prompt=prompts[i],
                        reward=rollout.reward,
                        correct=rollout.accuracy >= self._limits.correct_reward - TOLERANCE,
                        num_tokens=rollout.num_tokens,
                        truncated=rollout.response_length >= self._limits.response_length,
                        temperature=ctx.temperature,
                        row=len(self.keys),
                    )
                )
                self.keys.append(rollout.keys)
            first = self._uids.setdefault((ctx.round, i), uid)
            if first != uid and rollouts:  # topped up: verl knows these rollouts by a uid of their own
                rename_group([key for rollout in rollouts for key in rollout.keys], first)
        return groups
