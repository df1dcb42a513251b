"""What every adapter must do, shown in a fake world: its trainer is real, but generation, rewards and entropies are
those of tests/fakes.py, so that prepo's own loop over the same fakes says what strategies must see.

An adapter's tests make a `World` and pass it to `check_*`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prepo_cli.data.stream import PromptStream
from prepo_cli.engines.base import Request, Rollout
from strategies.types import Completion, Group, Prompt, RunInfo, StepReport, derive_seed
from tests.fakes import FakeEngine, FakeRun, Record, RecordingSet, make_rollout

NEUTRAL = {
    "selector": "full", "budget": "uniform", "filter": "keep-all", "weighting": "uniform",
    "temperature_schedule": "constant",
}  # fmt: skip
MIXES: dict[str, dict[str, str]] = {
    "neutral": NEUTRAL,
    "prepo": {"selector": "ppl-schedule", "weighting": "rel-entropy"},
    "greso": {"selector": "greso"},
    "dapo": {"selector": "full", "filter": "nonzero-variance"},
    "e3": {"selector": "e3"},
    "calibrated": {"selector": "calibrated"},
    "top-ups": {"selector": "mopps", "budget": "pilot-commit"},
    "everything": {
        "selector": "greso+ppl-schedule", "budget": "e3", "filter": "nonzero-variance",
        "weighting": "high-entropy-tokens", "temperature_schedule": "entropy-target",
    },
}  # fmt: skip


class Watched(RecordingSet):
    """The five strategies, with the record of each step."""

    def __init__(self, slots: Mapping[str, str], run: RunInfo) -> None:
        super().__init__(slots, run)
        self.records: list[Record] = []

    def end_step(self, report: StepReport) -> None:
        super().end_step(report)
        self.records.append(self.record)


@dataclass(frozen=True)
class Generated:
    """A rollout that the trainer's generator was asked for, in that order; `used` unless it only filled up a batch."""

    step: int
    index: int
    seen: Completion
    used: bool = True


class World(Protocol):
    """An adapter and its trainer over fake rollouts."""

    run: RunInfo
    prompts: Sequence[Prompt]
    generated: list[Generated]
    order: Callable[[int], npt.NDArray[np.int32]] | None
    """The epochs' orders, None for prepo's own."""

    def steps(self, count: int) -> list[Record]:
        """Train that many further steps, in a new trainer that goes on from the last one's checkpoint, if any."""
        ...

    def costs(self) -> dict[str, float]:
        """The `cost/*` that were logged last."""
        ...


def fake_entropies(length: int, correct: bool, temperature: float) -> npt.NDArray[np.float32]:
    """The entropy of each token of a fake rollout."""
    return (temperature * (0.4 + 0.05 * (np.arange(length) % 4)) + 0.3 * correct).astype(np.float32)


def fake_rollout(run: RunInfo, step: int, prompt: Prompt, number: int, temperature: float) -> Rollout:
    """Rollout `number` of a prompt in a step; its first token says whether it is correct."""
    rollout = make_rollout(prompt, derive_seed(run.seed, "rollout", step, prompt.id, number), temperature)
    entropies = fake_entropies(len(rollout.token_ids), bool(rollout.token_ids[0]), temperature)
    return replace(rollout, entropies=entropies)


class Generator:
    """Makes fake rollouts for an adapter's trainer, and notes them."""

    def __init__(self, run: RunInfo, prompts: Sequence[Prompt]) -> None:
        self.run, self.prompts = run, prompts
        self.generated: list[Generated] = []
        self._step, self._numbers = -1, Counter[int]()

    def __call__(self, step: int, index: int, temperature: float, used: bool = True) -> Rollout:
        """The next rollout of the prompt in that row."""
        if step != self._step:
            self._step, self._numbers = step, Counter()
        made = fake_rollout(self.run, step, self.prompts[index], self._numbers[index], temperature)
        self._numbers[index] += 1
        seen = _seen(made, temperature)
        self.generated.append(Generated(step, index, seen, used))
        return made


def reference(world: World, slots: Mapping[str, str], count: int) -> list[Record]:
    """What prepo's own loop does with the same strategies and rollouts."""

    class Engine(FakeEngine):
        def generate(self, requests: Sequence[Request], progress: Any = None) -> list[list[Rollout]]:
            groups = super().generate(requests, progress)
            return [
                [
                    replace(r, entropies=fake_entropies(len(r.token_ids), bool(r.token_ids[0]), request.temperature))
                    for r in rollouts
                ]
                for request, rollouts in zip(requests, groups, strict=True)
            ]

    own = FakeRun(slots, world.run, world.prompts)
    own.collector.engine = Engine(world.prompts)
    own.stream = PromptStream(world.run.num_prompts, world.run.seed, world.prompts.__getitem__, world.order)
    own.collector.stream = own.stream
    return own.steps(count)


def check_like_prepos_own_loop(world: World, slots: Mapping[str, str], count: int) -> None:
    """Strategies see and answer, step by step, what they do in prepo's own trainer."""
    for found, expected in zip(world.steps(count), reference(world, slots, count), strict=True):
        np.testing.assert_allclose(found.temperature, expected.temperature, rtol=1e-5)
        assert found.asked == expected.asked
        assert [[p.index for p in each] for each in found.prompts] == [
            [p.index for p in each] for each in expected.prompts
        ]
        assert found.counts == expected.counts
        assert found.top_ups == expected.top_ups
        assert _shown(found.groups) == _shown(expected.groups)
        assert [mask.tolist() for mask in found.masks] == [mask.tolist() for mask in expected.masks]
        if expected.weights is not None:
            assert found.batch is not None and expected.batch is not None
            np.testing.assert_array_equal(found.batch.group_N, expected.batch.group_N)
            np.testing.assert_array_equal(found.batch.rewards_N, expected.batch.rewards_N)
            np.testing.assert_array_equal(found.batch.lengths_N, expected.batch.lengths_N)
            np.testing.assert_allclose(found.batch.advantages_N, expected.batch.advantages_N, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(_by_token(found), _by_token(expected), rtol=1e-5)
        _check_report(found.report, expected.report)


def check_shows_what_was_rolled(world: World, count: int) -> None:
    """Each strategy sees exactly the groups that were rolled out, in order, each once, as they came out."""
    records = world.steps(count)
    shown = [
        (step, group.prompt.index, replace(completion, entropy=None))
        for step, record in enumerate(records)
        for group in record.groups
        for completion in group.completions
    ]
    rolled = [(each.step, each.index, each.seen) for each in world.generated if each.used]
    assert sorted(shown, key=repr) == sorted(rolled, key=repr)
    assert list(dict.fromkeys((step, index) for step, index, _ in shown)) == list(
        dict.fromkeys((step, index) for step, index, _ in rolled)
    )
    for step, record in enumerate(records):
        assert {c.temperature for group in record.groups for c in group.completions} == {record.temperature}, step


def check_charges_everything(world: World, count: int) -> None:
    """Everything generated is charged, kept or not, and what is trained on besides."""
    records = world.steps(count)
    costs = world.costs()
    assert costs["cost/rollouts_total"] == len(world.generated)
    assert costs["cost/tokens_generated"] == sum(each.seen.num_tokens for each in world.generated)
    trained = sum(0 if record.batch is None else len(record.batch.rewards_N) for record in records)
    assert costs["cost/rollouts_trained"] == trained


def check_saves_and_restores(through_disk: World, uninterrupted: World) -> None:
    """A run that is stopped, and gone on with from its checkpoint, is the same as one that isn't."""
    stopped = through_disk.steps(2) + through_disk.steps(3)
    for found, expected in zip(stopped, uninterrupted.steps(5), strict=True):
        assert found.prompts == expected.prompts
        assert found.counts == expected.counts
        assert _shown(found.groups) == _shown(expected.groups)
        assert found.report == expected.report
        assert found.metrics == expected.metrics
    for name in ("cost/rollouts_total", "cost/rollouts_trained", "cost/tokens_generated", "cost/tokens_scored"):
        assert through_disk.costs()[name] == uninterrupted.costs()[name]


def check_neutral_strategies_do_nothing(world: World, count: int) -> None:
    """Every prompt once an epoch in the trainer's order, equal counts, all kept, with weight 1, at temperature 1."""
    run, records = world.run, world.steps(count)
    assert world.order is not None
    order = [int(i) for epoch in range(2) for i in world.order(epoch)]
    assert [p.index for r in records for p in r.prompts[0]] == order[: count * run.prompts_per_step]
    for record in records:
        assert len(record.prompts) == 1
        assert record.counts == [[run.num_generations] * run.prompts_per_step]
        assert all(mask.all() for mask in record.masks)
        assert record.weights is not None and (record.weights == 1).all()
        assert record.temperature == 1


def _seen(rollout: Rollout, temperature: float) -> Completion:
    correct = bool(rollout.token_ids[0])
    return Completion(float(correct), correct, len(rollout.token_ids), rollout.truncated, temperature)


def _shown(groups: Sequence[Group]) -> list[tuple[int, list[Completion]]]:
    """Groups without entropies, which other trainers know only later, and what is derived from their sums."""
    return [(g.prompt.index, [replace(c, entropy=None, temperature=0.0) for c in g.completions]) for g in groups]


def _by_token(record: Record) -> npt.NDArray[np.float64]:
    """The weight of each token trained on."""
    assert record.batch is not None and record.weights is not None
    return np.broadcast_to(record.weights, record.batch.mask_NT.shape)[record.batch.mask_NT]


def _check_report(found: StepReport | None, expected: StepReport | None) -> None:
    assert found is not None and expected is not None and expected.entropy is not None
    assert replace(found, entropy=None, temperature=0.0) == replace(expected, entropy=None, temperature=0.0)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-5)
