"""Strategies and their five kinds. A new one is a class with a single method; everything else has a default."""

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
"""Scalars, strings and numpy arrays, and lists and dicts of them; never pickled."""


class StrategyParams(BaseModel):
    """Base class of strategy parameters: immutable, rejects unknown names; declare bounds with `Field`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def notes(self, run: RunInfo) -> list[str]:
        """Notes for the user on these parameters in this run; logged once at the start."""
        return []

    @property
    def stored_scopes(self) -> frozenset[str]:
        """Scopes of the stored perplexities (`Prompt.ppl`) that the strategy reads; none unless overridden."""
        return frozenset()


class Strategy(ABC):
    """A strategy for one slot. The first line of the class docstring is its description in `prepo strategies`."""

    slot: ClassVar[str]
    name: ClassVar[str] = ""
    paper: ClassVar[str | None] = None
    companions: ClassVar[Mapping[str, str]] = {}
    """Strategies that come with this one, by slot, unless the user sets that slot: {"filter": "nonzero-variance"}."""

    metric_help: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Unit and meaning of what `metrics` returns, by key or, with a *, by pattern; docs/metrics.md lists them."""

    reads_pass_rates: ClassVar[bool] = False
    """Whether it reads `Prompt.pass_rate`, which rollouts made before the run have paid for."""

    reads_progress: ClassVar[bool] = False
    """Whether it reads `progress`, `spent` or `total_steps`, so that extending a run changes what it does."""

    Params: ClassVar[type[StrategyParams]] = StrategyParams
    """Model of the parameters; a strategy with parameters nests its own `class Params(StrategyParams)`."""

    def __init__(self, params: StrategyParams, run: RunInfo) -> None:
        self.params: Any = params
        self.run = run

    @classmethod  # noqa: B027  (an optional hook)
    def check(cls, params: Any, run: RunInfo) -> None:
        """Raise StrategyError if the parameters make no sense for this run."""

    def notes(self) -> list[str]:
        """Notes for the user on this strategy in this run; logged once at the start."""
        return [f"{self.slot} '{self.name}': {note}" for note in self.params.notes(self.run)]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:  # noqa: B027
        """Learn from a round's rollouts, including those of groups that are then dropped."""

    def end_step(self, report: StepReport) -> None:  # noqa: B027
        """Adapt after the optimizer step."""

    def metrics(self) -> dict[str, float]:
        """Metrics, read once per step after `end_step` and logged as `<slot>/<key>`."""
        return {}

    def state_dict(self) -> State:
        """Everything that affects the next step."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"{self.name} has no state, but the checkpoint contains {sorted(state)} for it")


class Selector(Strategy):
    """Chooses the prompts to roll out."""

    slot = "selector"

    @property
    def stored_scopes(self) -> frozenset[str]:
        """Scopes of the stored perplexities (`Prompt.ppl`) that it reads; the trainer checks the dataset's."""
        scopes: frozenset[str] = self.params.stored_scopes
        return scopes

    @abstractmethod
    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        """Return exactly n prompts, drawn with `source.take(m)`."""


class BudgetAllocator(Strategy):
    """Decides how many rollouts each prompt gets."""

    slot = "budget"
    minimum: ClassVar[int] = 2

    @abstractmethod
    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        """Rollouts per prompt: at least 2 each, summing to `total`, or to less if `top_up` assigns the remainder."""

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        """More rollouts for each group, at most `remaining` in total, given those so far; all zeros ends the round."""
        return [0] * len(groups)


class RolloutFilter(Strategy):
    """Decides which rollouts to train on."""

    slot = "filter"
    refills: ClassVar[bool] = False
    """Whether dropped groups are replaced in further rounds until the batch is full."""

    @abstractmethod
    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        """Mask over the group's rollouts, True to train on; keeping none drops the group."""


class RolloutWeighting(Strategy):
    """Scales the advantage of each rollout or token."""

    slot = "weighting"
    needs_entropy: ClassVar[bool] = False
    """Whether `weigh` reads the batch's entropies. They may cost a forward pass and are None unless this is set."""

    @abstractmethod
    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Weights [N, 1] or [N, T], finite and >= 0."""


class TemperatureSchedule(Strategy):
    """Sets the temperature at which a step samples and trains."""

    slot = "temperature_schedule"

    @abstractmethod
    def temperature(self, ctx: StepContext) -> float:
        """This step's sampling temperature, > 0."""


SLOTS: dict[str, type[Strategy]] = {
    kind.slot: kind for kind in (Selector, BudgetAllocator, RolloutFilter, RolloutWeighting, TemperatureSchedule)
}


def all_kept(group: Group) -> BoolArray:
    """The mask that keeps every rollout."""
    return np.ones(len(group.completions), dtype=np.bool_)
