"""The five strategies of a run as one, every answer checked: what any trainer's loop calls.

A strategy that breaks its contract is named in the error, before anything is trained on its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from strategies import registry
from strategies.base import (
    SLOTS,
    BudgetAllocator,
    RolloutFilter,
    RolloutWeighting,
    Selector,
    State,
    Strategy,
    TemperatureSchedule,
)
from strategies.errors import StrategyError
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

SLOT_DEFAULTS = {
    "selector": "random",
    "budget": "uniform",
    "filter": "keep-all",
    "weighting": "uniform",
    "temperature_schedule": "constant",
}
"""What a slot holds where nothing is said of it."""


def resolve_slots(*layers: Mapping[str, str]) -> dict[str, str]:
    """All five slots from layers of which later ones win; a layer also brings its strategies' companions.

    >>> resolve_slots({"selector": "greso"})["filter"]
    'nonzero-variance'
    >>> resolve_slots({"selector": "greso"}, {"filter": "keep-all"})["filter"]
    'keep-all'

    Raises:
        StrategyError: no such slot or strategy.
    """
    slots = dict(SLOT_DEFAULTS)
    for layer in layers:
        for slot, text in layer.items():
            if slot not in SLOTS:
                raise StrategyError(
                    f"no slot '{slot}'{registry.did_you_mean(slot, SLOTS)}; there are: {', '.join(SLOTS)}"
                )
            slots.update({other: name for other, name in registry.companions(slot, text).items() if other not in layer})
        slots.update(layer)
    return slots


class StrategySet:
    """Selector, budget, filter, weighting and temperature schedule, as one.

    Args:
        slots: specs by slot; slots that are missing get their defaults or what the given strategies bring along.
        run: what the strategies may know of the run.

    Raises:
        StrategyError: no such slot or strategy, or parameters that make no sense for this run.

    >>> from strategies import Prompt, RunInfo, StepContext
    >>> run = RunInfo(num_prompts=100, total_steps=10, prompts_per_step=2, num_generations=4,
    ...               columns=frozenset({"ppl"}))
    >>> strategies = StrategySet({"selector": "greso+ppl-schedule:source=stored", "budget": "e3"}, run)
    >>> ctx = StepContext(step=5, total_steps=10, epoch=0, round=0, seed=0)
    >>> class Source:
    ...     epoch = 0
    ...     def take(self, m):
    ...         return [Prompt(index=i, id=str(i), ppl=20.0 - i) for i in range(m)]
    >>> prompts = strategies.select(2, Source(), ctx)
    >>> [prompt.ppl for prompt in prompts]  # halfway through the run: the middle of ten candidates
    [15.0, 16.0]
    >>> strategies.allocate(prompts, 8, ctx)
    [4, 4]
    """

    def __init__(self, slots: Mapping[str, str], run: RunInfo) -> None:
        self.run = run
        specs = resolve_slots(slots)
        self._by_slot: dict[str, Strategy] = {slot: registry.create(slot, specs[slot], run) for slot in SLOTS}
        self.selector = cast(Selector, self._by_slot["selector"])
        self.budget = cast(BudgetAllocator, self._by_slot["budget"])
        self.filter = cast(RolloutFilter, self._by_slot["filter"])
        self.weighting = cast(RolloutWeighting, self._by_slot["weighting"])
        self.schedule = cast(TemperatureSchedule, self._by_slot["temperature_schedule"])

    def temperature(self, ctx: StepContext) -> float:
        """This step's sampling temperature."""
        value = float(self.schedule.temperature(ctx))
        _require(bool(np.isfinite(value)) and value > 0, self.schedule, f"gave temperature {value}; it must be > 0")
        return value

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        """Exactly n prompts."""
        prompts = self.selector.select(n, source, ctx)
        _require(len(prompts) == n, self.selector, f"selected {len(prompts)} prompts where {n} were asked for")
        return prompts

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        """Rollouts of each prompt; together `total`, or less if the budget tops up later."""
        counts = [int(count) for count in self.budget.allocate(prompts, total, ctx)]
        _require(len(counts) == len(prompts), self.budget, f"gave {len(counts)} counts for {len(prompts)} prompts")
        _require(min(counts) >= self.budget.minimum, self.budget, f"gave a prompt {min(counts)} rollouts")
        tops_up = type(self.budget).top_up is not BudgetAllocator.top_up
        fits = sum(counts) == total or (tops_up and sum(counts) < total)
        _require(fits, self.budget, f"allotted {sum(counts)} rollouts of {total}")
        return counts

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        """Further rollouts for each group, at most `remaining`."""
        counts = [int(count) for count in self.budget.top_up(groups, remaining, ctx)]
        fits = len(counts) == len(groups) and min(counts) >= 0 and sum(counts) <= remaining
        _require(fits, self.budget, f"topped up {counts[:8]} with {remaining} rollouts left for {len(groups)} groups")
        return counts

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        """Mask over the group's rollouts."""
        mask_N = np.asarray(self.filter.keep(group, ctx))
        right = mask_N.shape == (len(group.completions),) and mask_N.dtype == np.bool_
        _require(right, self.filter, f"gave a mask {mask_N.dtype}{mask_N.shape} for {len(group.completions)} rollouts")
        return mask_N

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Weights [N, 1] or [N, T]; a batch without rollouts has none to give."""
        if not len(batch.rewards_N):
            return np.ones((0, 1))
        weights = np.asarray(self._weights(batch, ctx), dtype=np.float64)
        n, t = batch.mask_NT.shape
        _require(
            weights.shape in ((n, 1), (n, t)), self.weighting, f"gave weights {weights.shape} for {n} x {t} tokens"
        )
        sound = bool(np.isfinite(weights).all()) and bool((weights >= 0).all())
        _require(sound, self.weighting, "gave weights that are negative or not finite")
        return weights

    def _weights(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Unchecked weights; entropies are withheld from a weighting that does not ask for them, on every engine."""
        if self.weighting.needs_entropy:
            _require(
                batch.entropy_NT is not None,
                self.weighting,
                "needs entropies, which the batch lacks: the trainer must compute them where needs_entropy is set",
            )
            return self.weighting.weigh(batch, ctx)
        try:
            return self.weighting.weigh(replace(batch, entropy_NT=None), ctx)
        except TypeError as error:  # what reading None as an array ends in
            raise StrategyError(
                f"weighting '{self.weighting.name}' raised TypeError: {error}; "
                "if it reads batch.entropy_NT, set needs_entropy = True on its class"
            ) from error

    def notes(self) -> list[str]:
        """What the user should know of these strategies in this run, said once at the start."""
        return [note for strategy in self._by_slot.values() for note in strategy.notes()]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        """Show a round's groups to all five."""
        for strategy in self._by_slot.values():
            strategy.observe(groups, ctx)

    def end_step(self, report: StepReport) -> None:
        """Let all five adapt."""
        for strategy in self._by_slot.values():
            strategy.end_step(report)

    def metrics(self) -> dict[str, float]:
        """All metrics, prefixed with their slot; the temperature schedule's with `temperature`."""
        return {
            f"{'temperature' if slot == 'temperature_schedule' else slot}/{key}": value
            for slot, strategy in self._by_slot.items()
            for key, value in strategy.metrics().items()
        }

    def state_dict(self) -> State:
        """State of all five, by slot, with the name of the strategy that wrote it."""
        return {slot: {"name": s.name, "state": s.state_dict()} for slot, s in self._by_slot.items()}

    def load_state_dict(self, state: State) -> None:
        """Take all states back; raises StrategyError if the checkpoint is of other strategies."""
        for slot, strategy in self._by_slot.items():
            saved: dict[str, Any] = state[slot]
            if saved["name"] != strategy.name:
                raise StrategyError(
                    f"the checkpoint was written with {slot} '{saved['name']}', this run has '{strategy.name}'; "
                    "resume with the run's own configuration or take another --output-dir"
                )
            strategy.load_state_dict(saved["state"])


def _require(met: bool, strategy: Strategy, fault: str) -> None:
    if not met:
        raise StrategyError(f"{strategy.slot} '{strategy.name}' {fault}")
