"""A strategy and its five kinds. An author writes one class with one method; the rest has defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from strategies.types import (
    Batch,
    BoolArray,
    FloatArray,
    Group,
    Prompt,
    PromptSource,
    RunInfo,
    StepContext,
    StepReport,
)

State = dict[str, Any]
"""Scalars, strings, lists and dicts of these, and numpy arrays; never pickled."""


class StrategyParams(BaseModel):
    """Base of every strategy's parameters: immutable, unknown names refused, bounds declared with `Field`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def notes(self, run: RunInfo) -> list[str]:
        """What the user should know about these parameters in this run, said once at the start."""
        return []

    @property
    def stored_scopes(self) -> frozenset[str]:
        """Scopes of the stored perplexities (`Prompt.ppl`) that the strategy reads; none unless overridden."""
        return frozenset()


class Strategy(ABC):
    """One choice in one slot. The first line of the class docstring is its description in `prepo strategies`."""

    slot: ClassVar[str]
    name: ClassVar[str] = ""
    paper: ClassVar[str | None] = None
    companions: ClassVar[Mapping[str, str]] = {}
    """Strategies this one brings along, by slot, unless the user sets that slot: {"filter": "nonzero-variance"}."""

    Params: ClassVar[type[StrategyParams]] = StrategyParams
    """The parameters' model; a strategy that has some nests `class Params(StrategyParams)`."""

    def __init__(self, params: StrategyParams, run: RunInfo) -> None:
        self.params: Any = params
        self.run = run

    @classmethod  # noqa: B027  (an optional hook)
    def check(cls, params: Any, run: RunInfo) -> None:
        """Raise StrategyError where the parameters make no sense for this run."""

    def notes(self) -> list[str]:
        """What the user should know of this strategy in this run, said once at the start."""
        return [f"{self.slot} '{self.name}': {note}" for note in self.params.notes(self.run)]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:  # noqa: B027
        """Learn from a round's rollouts, groups kept and dropped alike."""

    def end_step(self, report: StepReport) -> None:  # noqa: B027
        """Adapt after the optimiser step."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the log, read once a step after `end_step`; logged as `<slot>/<key>`."""
        return {}

    def state_dict(self) -> State:
        """All that changes the next step."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{self.name} keeps no state, but the checkpoint has {sorted(state)}")


class Selector(Strategy):
    """Which prompts to roll out."""

    slot = "selector"

    @property
    def stored_scopes(self) -> frozenset[str]:
        """Scopes of the stored perplexities (`Prompt.ppl`) that it reads, for the trainer to check the dataset by."""
        scopes: frozenset[str] = self.params.stored_scopes
        return scopes

    @abstractmethod
    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        """Exactly n prompts, pulled with `source.take(m)`."""


class BudgetAllocator(Strategy):
    """How many rollouts each prompt gets."""

    slot = "budget"
    minimum: ClassVar[int] = 2

    @abstractmethod
    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        """Rollouts for each prompt: at least 2 each, `total` together, or less to decide on the rest in `top_up`."""

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        """Further rollouts, at most `remaining` together, for each group rolled so far; all 0 ends the round."""
        return [0] * len(groups)


class RolloutFilter(Strategy):
    """Which rollouts to train on."""

    slot = "filter"
    refills: ClassVar[bool] = False
    """Whether a group of which nothing is kept is replaced in a further round."""

    @abstractmethod
    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        """Mask over the group's rollouts; nothing kept drops the group."""


class RolloutWeighting(Strategy):
    """What each rollout's (or token's) advantage is multiplied by."""

    slot = "weighting"
    needs_entropy: ClassVar[bool] = False
    """Whether `weigh` reads the batch's entropies, which may cost a forward pass; without it there are none."""

    @abstractmethod
    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Weights [N, 1] or [N, T], finite and >= 0."""


class TemperatureSchedule(Strategy):
    """At which temperature the step samples and trains."""

    slot = "temperature_schedule"

    @abstractmethod
    def temperature(self, ctx: StepContext) -> float:
        """Sampling temperature of this step, > 0."""


SLOTS: dict[str, type[Strategy]] = {
    kind.slot: kind for kind in (Selector, BudgetAllocator, RolloutFilter, RolloutWeighting, TemperatureSchedule)
}


def all_kept(group: Group) -> BoolArray:
    """The mask that keeps every rollout."""
    return np.ones(len(group.completions), dtype=np.bool_)
