"""A world without a model: a prompt stream, a probe, rewards from known pass rates, and a loop over the five slots.

All of it is derived from seeds, so that two runs of the same world are equal and a test may replay one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from strategies.types import (
    Batch,
    BoolArray,
    Completion,
    FloatArray,
    Group,
    Prompt,
    RunInfo,
    StepContext,
    StepReport,
    derive_seed,
)

SLOT_DEFAULTS = {
    "selector": "full",
    "budget": "uniform",
    "filter": "keep-all",
    "weighting": "uniform",
    "temperature_schedule": "constant",
}
MAX_ROUNDS = 4


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    return derive_seed(*parts) / 2**63


def make_prompts(count: int = 48, sources: int = 4) -> list[Prompt]:
    """A training set with every optional column."""
    return [
        Prompt(
            index=i,
            id=f"p{i:04d}",
            source=f"family-{i % sources}",
            difficulty=float(derive_seed("difficulty", i) % 5),
            rank=uniform("rank", i),
            ppl=1.0 + 9.0 * uniform("ppl", i),
        )
        for i in range(count)
    ]


def make_run(num_prompts: int = 48, **changes: Any) -> RunInfo:
    """What strategies are told of the fake run."""
    info = RunInfo(
        num_prompts=num_prompts,
        total_steps=20,
        prompts_per_step=6,
        num_generations=8,
        seed=7,
        vocab_size=151_936,
        columns=frozenset({"source", "difficulty", "rank", "ppl"}),
    )
    return replace(info, **changes)


def pass_rate(prompt: Prompt) -> float:
    """The prompt's true pass rate; a fifth of all prompts is never solved and a fifth always."""
    return min(max(1.67 * uniform("pass rate", prompt.index) - 0.33, 0.0), 1.0)


def make_completion(prompt: Prompt, *, step: int, number: int, seed: int = 7, temperature: float = 1.0) -> Completion:
    """Rollout `number` of a prompt in a step; its random stream depends on these alone."""
    correct = uniform(seed, "reward", step, prompt.id, number) < pass_rate(prompt)
    tokens = 1 + derive_seed(seed, "tokens", step, prompt.id, number) % 12
    entropy = temperature * uniform(seed, "entropy", step, prompt.id, number)
    return Completion(float(correct), correct, tokens, False, temperature, entropy)


def make_group(prompt: Prompt, rewards: Sequence[float]) -> Group:
    """A group with given rewards; 1 is correct."""
    return Group(prompt, tuple(Completion(float(r), r == 1, 5, False, 1.0, 0.5) for r in rewards))


class FakeSource:
    """The shuffled stream over a list of prompts, epoch after epoch."""

    def __init__(self, prompts: Sequence[Prompt], seed: int = 7, position: int = 0) -> None:
        self.prompts, self.seed, self.position = list(prompts), seed, position

    @property
    def epoch(self) -> int:
        return self.position // len(self.prompts)

    def take(self, m: int) -> list[Prompt]:
        taken = [self._at(self.position + i) for i in range(m)]
        self.position += m
        return taken

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self.prompts))
        order = np.random.default_rng(derive_seed(self.seed, "order", epoch)).permutation(len(self.prompts))
        return self.prompts[order[place]]


@dataclass
class FakeProbe:
    """Perplexities that fall with the pass rate; `asked` counts the prompts scored."""

    asked: int = 0

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        self.asked += len(prompts)
        return np.array([1.5 + 4.0 * (1.0 - pass_rate(p)) + 2.0 * uniform(scope, p.index) for p in prompts])


@dataclass
class Record:
    """All that the five strategies answered in a step, and what they then reported."""

    prompts: list[list[Prompt]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    top_ups: list[list[int]] = field(default_factory=list)
    masks: list[BoolArray] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    weights: FloatArray | None = None
    batch: Batch | None = None
    temperature: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class FakeRun:
    """The trainer's order of calls over the five slots, with nothing behind it but the fakes above."""

    def __init__(
        self,
        slots: Mapping[str, str],
        run: RunInfo | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> None:
        self.info = run or make_run()
        self.source = FakeSource(prompts or make_prompts(self.info.num_prompts), self.info.seed)
        self.probe = FakeProbe()
        self.next_step = 0
        brought: dict[str, str] = {}
        for slot, text in slots.items():
            brought = registry.companions(slot, text) | brought
        names = SLOT_DEFAULTS | brought | dict(slots)
        self.strategies: dict[str, Strategy] = {slot: registry.create(slot, names[slot], self.info) for slot in SLOTS}

    def steps(self, count: int) -> list[Record]:
        """Run `count` further steps."""
        return [self._step() for _ in range(count)]

    def state_dict(self) -> State:
        """Everything that the next step depends on."""
        return {
            "step": self.next_step,
            "position": self.source.position,
            "strategies": {slot: strategy.state_dict() for slot, strategy in self.strategies.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from there."""
        self.next_step, self.source.position = state["step"], state["position"]
        for slot, strategy in self.strategies.items():
            strategy.load_state_dict(state["strategies"][slot])

    def _step(self) -> Record:
        record = Record()
        epoch = self.source.epoch
        ctx = StepContext(self.next_step, self.info.total_steps, epoch, 0, self.info.seed, probe=self.probe)
        record.temperature = cast(TemperatureSchedule, self.strategies["temperature_schedule"]).temperature(ctx)
        ctx = replace(ctx, temperature=record.temperature)
        rounds = MAX_ROUNDS if cast(RolloutFilter, self.strategies["filter"]).refills else 1
        for number in range(rounds):
            missing = self.info.prompts_per_step - sum(bool(mask.any()) for mask in record.masks)
            if missing > 0:
                self._round(missing, replace(ctx, round=number, epoch=self.source.epoch), record)
        kept = [
            [c for c, keep in zip(group.completions, mask, strict=True) if keep]
            for group, mask in zip(record.groups, record.masks, strict=True)
        ]
        trained = [completions for completions in kept if completions]
        if trained:
            record.batch = make_batch(trained, self.info.seed, self.next_step)
            record.weights = cast(RolloutWeighting, self.strategies["weighting"]).weigh(record.batch, ctx)
        self._end(record, epoch, trained)
        return record

    def _round(self, size: int, ctx: StepContext, record: Record) -> None:
        prompts = cast(Selector, self.strategies["selector"]).select(size, self.source, ctx)
        budget = cast(BudgetAllocator, self.strategies["budget"])
        total = size * self.info.num_generations
        counts = budget.allocate(prompts, total, ctx)
        record.asked.append(size)
        record.prompts.append(list(prompts))
        record.counts.append(list(counts))
        groups = [Group(prompt, ()) for prompt in prompts]
        further = list(counts)
        given = [0] * len(prompts)
        while any(further):
            first = sum(len(g.completions) for g in record.groups)
            groups = [
                self._extend(g, n, ctx, first + 1000 * i) for i, (g, n) in enumerate(zip(groups, further, strict=True))
            ]
            remaining = total - sum(len(g.completions) for g in groups)
            if remaining <= 0:
                break
            further = budget.top_up(groups, remaining, ctx)
            given = [a + b for a, b in zip(given, further, strict=True)]
        record.top_ups.append(given)
        for strategy in self.strategies.values():
            strategy.observe(groups, ctx)
        record.groups += groups
        record.masks += [cast(RolloutFilter, self.strategies["filter"]).keep(group, ctx) for group in groups]

    def _extend(self, group: Group, count: int, ctx: StepContext, first: int) -> Group:
        start = first + len(group.completions)
        fresh = tuple(
            make_completion(group.prompt, step=ctx.step, number=n, seed=self.info.seed, temperature=ctx.temperature)
            for n in range(start, start + count)
        )
        return replace(group, completions=group.completions + fresh)

    def _end(self, record: Record, epoch: int, trained: Sequence[Sequence[Completion]]) -> None:
        everything = [c for group in record.groups for c in group.completions]
        kept = [c for group in trained for c in group]
        lengths = [c.num_tokens for c in kept]
        report = StepReport(
            step=self.next_step,
            total_steps=self.info.total_steps,
            epoch=self.source.epoch,
            epochs_ended=self.source.epoch - epoch,
            temperature=record.temperature,
            entropy=float(np.average([c.entropy or 0.0 for c in kept], weights=lengths)) if kept else None,
            reward=float(np.mean([c.reward for c in everything])),
            updated=bool(kept),
            rollouts_total=len(everything),
            rollouts_trained=len(kept),
        )
        for strategy in self.strategies.values():
            strategy.end_step(report)
        record.metrics = {f"{slot}/{k}": v for slot, s in self.strategies.items() for k, v in s.metrics().items()}
        self.next_step += 1


def make_batch(groups: Sequence[Sequence[Completion]], seed: int = 7, step: int = 0) -> Batch:
    """The batch of given groups, with token entropies around each rollout's mean."""
    flat = [c for group in groups for c in group]
    group_N = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    rewards_N = np.array([c.reward for c in flat])
    advantages_N = np.concatenate([_advantages(np.array([c.reward for c in group])) for group in groups])
    width = max(c.num_tokens for c in flat)
    mask_NT = np.arange(width) < np.array([c.num_tokens for c in flat])[:, None]
    noise_NT = np.random.default_rng(derive_seed(seed, "token entropy", step)).uniform(0.5, 1.5, mask_NT.shape)
    entropy_NT = np.where(mask_NT, noise_NT * np.array([c.entropy or 0.0 for c in flat])[:, None], 0.0)
    return Batch(group_N, rewards_N, advantages_N, entropy_NT, mask_NT)


def through_disk(state: Any) -> Any:
    """The state as a checkpoint gives it back: arrays through npz without pickle, the rest through JSON."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_take_arrays(state, arrays))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as loaded:
        return _put_arrays(json.loads(text), loaded)


def _take_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of objects would need pickle")
        arrays[f"array{len(arrays)}"] = value
        return {"__array__": f"array{len(arrays) - 1}"}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"JSON would make text of the keys {list(value)[:5]}")
        return {key: _take_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        raise TypeError("JSON would make a list of a tuple")
    return [_take_arrays(item, arrays) for item in value] if isinstance(value, list) else value


def _put_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _put_arrays(item, arrays) for key, item in value.items()}
    return [_put_arrays(item, arrays) for item in value] if isinstance(value, list) else value


def _advantages(rewards_N: FloatArray) -> FloatArray:
    return (rewards_N - rewards_N.mean()) / (rewards_N.std() + 1e-6)
