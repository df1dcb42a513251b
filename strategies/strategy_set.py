"""The five strategies of a run behind one interface that checks every result; this is what a training loop calls.

If a strategy breaks its contract, an error names it before anything is trained on its result.
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
"""The strategy of a slot that is not set."""


def resolve_slots(*layers: Mapping[str, str]) -> dict[str, str]:
    """Specs of all five slots; later layers override earlier ones, each with its strategies' companions.

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
                    f"unknown slot '{slot}'{registry.did_you_mean(slot, SLOTS)}; known: {', '.join(SLOTS)}"
                )
            slots.update({other: name for other, name in registry.companions(slot, text).items() if other not in layer})
        slots.update(layer)
    return slots


def metric_name(slot: str, key: str) -> str:
    """What the log calls a strategy's metric.

    >>> metric_name("selector", "window_start"), metric_name("temperature_schedule", "entropy_target")
    ('selector/window_start', 'temperature/entropy_target')
    """
    return f"{slot.removesuffix('_schedule')}/{key}"


class StrategySet:
    """Selector, budget, filter, weighting and temperature schedule behind one interface.

    Args:
        slots: specs by slot; a missing slot gets its default, or the companion of a strategy that is given.
        run: what the strategies may know about the run.

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
        _require(
            bool(np.isfinite(value)) and value > 0,
            self.schedule,
            f"returned temperature {value}; it must be finite and > 0",
        )
        return value

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        """Exactly n prompts."""
        prompts = self.selector.select(n, source, ctx)
        _require(len(prompts) == n, self.selector, f"selected {len(prompts)} prompts instead of {n}")
        return prompts

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        """Rollouts per prompt, summing to `total`, or to less if the budget tops up later."""
        counts = [int(count) for count in self.budget.allocate(prompts, total, ctx)]
        _require(len(counts) == len(prompts), self.budget, f"returned {len(counts)} counts for {len(prompts)} prompts")
        few = f"allocated {min(counts)} rollouts to a prompt; the minimum is {self.budget.minimum}"
        _require(min(counts) >= self.budget.minimum, self.budget, few)
        tops_up = type(self.budget).top_up is not BudgetAllocator.top_up
        fits = sum(counts) == total or (tops_up and sum(counts) < total)
        _require(fits, self.budget, f"allocated {sum(counts)} rollouts instead of {total}")
        return counts

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        """More rollouts for each group, at most `remaining` in all."""
        counts = [int(count) for count in self.budget.top_up(groups, remaining, ctx)]
        fits = len(counts) == len(groups) and min(counts) >= 0 and sum(counts) <= remaining
        _require(
            fits, self.budget, f"topped up {len(groups)} groups by {counts[:8]} with {remaining} rollouts remaining"
        )
        return counts

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        """Mask over the group's rollouts."""
        mask_N = np.asarray(self.filter.keep(group, ctx))
        n = len(group.completions)
        right = mask_N.shape == (n,) and mask_N.dtype == np.bool_
        _require(right, self.filter, f"returned a {mask_N.dtype} mask {mask_N.shape}, not bool ({n},)")
        return mask_N

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Weights [N, 1] or [N, T]; an empty batch has an empty array."""
        if not len(batch.rewards_N):
            return np.ones((0, 1))
        weights_NT = np.asarray(self._weights(batch, ctx), dtype=np.float64)
        n, t = batch.mask_NT.shape
        _require(
            weights_NT.shape in ((n, 1), (n, t)),
            self.weighting,
            f"returned weights {weights_NT.shape} instead of ({n}, 1) or ({n}, {t})",
        )
        sound = bool(np.isfinite(weights_NT).all()) and bool((weights_NT >= 0).all())
        _require(sound, self.weighting, "returned weights that are negative or not finite")
        return weights_NT

    def _weights(self, batch: Batch, ctx: StepContext) -> FloatArray:
        """Unchecked weights; entropies are withheld from a weighting without `needs_entropy`, on every engine."""
        if self.weighting.needs_entropy:
            _require(
                batch.entropy_NT is not None,
                self.weighting,
                "needs entropies, which the batch lacks: the trainer must compute them if needs_entropy is set",
            )
            return self.weighting.weigh(batch, ctx)
        try:
            return self.weighting.weigh(replace(batch, entropy_NT=None), ctx)
        except TypeError as error:  # raised where None is used as an array
            raise StrategyError(
                f"weighting '{self.weighting.name}' raised TypeError: {error}; "
                "if it reads batch.entropy_NT, set needs_entropy = True on its class"
            ) from error

    @property
    def reads_pass_rates(self) -> bool:
        """Whether any of the five reads `Prompt.pass_rate`."""
        return any(strategy.reads_pass_rates for strategy in self._by_slot.values())

    def notes(self) -> list[str]:
        """What the user should know about these strategies in this run; logged once at the start."""
        return [note for strategy in self._by_slot.values() for note in strategy.notes()]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        """Show a round's groups to all five strategies."""
        for strategy in self._by_slot.values():
            strategy.observe(groups, ctx)

    def end_step(self, report: StepReport) -> None:
        """Let all five strategies adapt after the optimizer step."""
        for strategy in self._by_slot.values():
            strategy.end_step(report)

    def metrics(self) -> dict[str, float]:
        """Metrics of all five strategies, under their `metric_name`."""
        return {
            metric_name(slot, key): value
            for slot, strategy in self._by_slot.items()
            for key, value in strategy.metrics().items()
        }

    def state_dict(self) -> State:
        """State of all five strategies by slot, each with the name of the strategy."""
        return {slot: {"name": s.name, "state": s.state_dict()} for slot, s in self._by_slot.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore all states; raises StrategyError if the checkpoint was written with other strategies."""
        for slot, strategy in self._by_slot.items():
            saved: dict[str, Any] = state[slot]
            if saved["name"] != strategy.name:
                raise StrategyError(
                    f"the checkpoint was written with {slot} '{saved['name']}', this run has '{strategy.name}'; "
                    "resume with the run's own configuration, or choose another --output-dir"
                )
            strategy.load_state_dict(saved["state"])


def _require(met: bool, strategy: Strategy, fault: str) -> None:
    if not met:
        raise StrategyError(f"{strategy.slot} '{strategy.name}' {fault}")
