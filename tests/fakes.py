"""A world without a model: prompts of known pass rates, rollouts derived from seeds, and the real loop over them.

Collector, stream, bookkeeping and checkpoint codec are prepo's own; only engine, judge, model and update are faked.
Everything is derived from seeds, so two runs of the same world are equal and a test may replay one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from prepo_cli.config import resolve
from prepo_cli.data.rendering import Rendered
from prepo_cli.data.stream import PromptStream
from prepo_cli.engines.base import Request, Rollout
from prepo_cli.rewards.judge import Scores
from prepo_cli.training import batch as bookkeeping
from prepo_cli.training import checkpoint
from prepo_cli.training.collect import Collector
from prepo_cli.training.limits import Limits
from prepo_cli.training.loop import train_step
from prepo_cli.training.progress import Progress
from prepo_cli.training.rollouts import Collected, Sample
from prepo_cli.training.run import Run
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.skips import Skips
from prepo_cli.training.update_stats import UpdateStats
from strategies import StrategySet
from strategies.types import (
    Batch,
    BoolArray,
    Completion,
    FloatArray,
    Group,
    Prompt,
    PromptSource,
    RunInfo,
    StepContext,
    StepReport,
    derive_seed,
)

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
            pass_rate=round(8 * true_rate(i)) / 8,
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
        columns=frozenset({"source", "difficulty", "rank", "ppl", "pass_rate"}),
    )
    return replace(info, **changes)


def pass_rate(prompt: Prompt) -> float:
    """The prompt's true pass rate; a fifth of all prompts is never solved and a fifth always."""
    return true_rate(prompt.index)


def true_rate(index: int) -> float:
    """The pass rate of the prompt in that row."""
    return min(max(1.67 * uniform("pass rate", index) - 0.33, 0.0), 1.0)


def make_rollout(prompt: Prompt, seed: int, temperature: float = 1.0) -> Rollout:
    """A rollout that depends on these alone; its first token says whether it is correct."""
    rng = np.random.default_rng(seed)
    correct, length = rng.random() < pass_rate(prompt), 1 + int(rng.integers(12))
    entropies = (temperature * rng.uniform(0.5, 1.5) * rng.random(length)).astype(np.float32)
    return Rollout([int(correct)] * length, -rng.random(length).astype(np.float32), entropies, truncated=length == 12)


def make_batch(prompts: Sequence[Prompt], rollouts: int = 4) -> Batch:
    """A batch of so many rollouts of each prompt, with the trainer's own advantages."""
    groups = [
        [_sample(p, make_rollout(p, derive_seed("batch", p.id, number))) for number in range(rollouts)] for p in prompts
    ]
    bookkeeping.assign_advantages(groups, "group")
    return bookkeeping.make_batch(groups)


def _sample(prompt: Prompt, rollout: Rollout) -> Sample:
    return Sample(prompt, [prompt.index], rollout, "", 1.0, float(rollout.token_ids[0]), bool(rollout.token_ids[0]))


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
    """What the five strategies answered in a step, and what they then reported."""

    prompts: list[list[Prompt]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    top_ups: list[list[int]] = field(default_factory=list)
    masks: list[BoolArray] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    weights: FloatArray | None = None
    batch: Batch | None = None
    temperature: float = 0.0
    report: StepReport | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    logged: dict[str, Any] = field(default_factory=dict)


class RecordingSet(StrategySet):
    """The five strategies, with a note of every answer."""

    record: Record

    def temperature(self, ctx: StepContext) -> float:
        self.record = Record(temperature=super().temperature(ctx))
        return self.record.temperature

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        self.record.asked.append(n)
        self.record.prompts.append(super().select(n, source, ctx))
        return self.record.prompts[-1]

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        self.record.counts.append(super().allocate(prompts, total, ctx))
        self.record.top_ups.append([0] * len(prompts))
        return self.record.counts[-1]

    def top_up(self, groups: Sequence[Group], remaining: int, ctx: StepContext) -> list[int]:
        further = super().top_up(groups, remaining, ctx)
        self.record.top_ups[-1] = [a + b for a, b in zip(self.record.top_ups[-1], further, strict=True)]
        return further

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self.record.groups += groups
        super().observe(groups, ctx)

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        self.record.masks.append(super().keep(group, ctx))
        return self.record.masks[-1]

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        weights = super().weigh(batch, ctx)
        if len(batch.rewards_N):
            self.record.batch, self.record.weights = batch, weights
        return weights

    def end_step(self, report: StepReport) -> None:
        self.record.report = report
        super().end_step(report)
        self.record.metrics = self.metrics()


class FakeEngine:
    """Answers a prompt, whose only token is its row, from seeds."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts

    def generate(self, requests: Sequence[Request], progress: Any = None) -> list[list[Rollout]]:
        return [
            [make_rollout(self.prompts[request.prompt_ids[0]], seed, request.temperature) for seed in request.seeds]
            for request in requests
        ]


class FakeUpdater:
    """Counts what would be updated."""

    def __init__(self) -> None:
        self.skips = Skips(limit=1)

    def prepare(self, groups: Sequence[Sequence[Sample]], needs_entropy: bool) -> None:
        """The engine has recorded all entropies."""

    def update(self, batch: Sequence[TrainingSample], rate: float, step: int, with_entropy: bool) -> UpdateStats:
        assert not with_entropy
        trained = [sample for sample in batch if sample.has_gradient]
        return UpdateStats(tokens=sum(s.num_tokens for s in trained), optimizer_steps=int(bool(trained)))


def judged(questions: Sequence[str], texts: Sequence[str], columns: Any) -> Scores:
    """Reward 1 for the text '1', else 0."""
    correct_N = np.array([text == "1" for text in texts])
    return Scores(correct_N.astype(np.float64), {"fake": correct_N.astype(np.float64)}, correct_N, 0, 0)


class FakeRun(Run):
    """A run whose model, engine and judge are the fakes above; loop, collector, stream and state are the real ones."""

    def __init__(
        self, slots: Mapping[str, str], run: RunInfo | None = None, prompts: Sequence[Prompt] | None = None
    ) -> None:
        self.info = info = run or make_run()
        self.all_prompts = list(prompts or make_prompts(info.num_prompts))
        settings = {
            "seed": info.seed,
            "training.total_steps": info.total_steps,
            "training.prompts_per_step": info.prompts_per_step,
            "training.num_generations": info.num_generations,
            "training.max_rounds": MAX_ROUNDS,
        }
        self.config = resolve(flags=settings)
        self.probe = FakeProbe()
        self.strategies = RecordingSet({"selector": "full"} | dict(slots), info)
        self.stream = PromptStream(info.num_prompts, info.seed, self.all_prompts.__getitem__)
        dataset = SimpleNamespace(fields=lambda row: {}, given=lambda row: "", question=lambda row: "")
        rendered = SimpleNamespace(dataset=dataset, rendered=lambda row: Rendered([row], (0, 1)))
        engine = FakeEngine(self.all_prompts)
        self.collector = Collector(
            self.config.training, self.strategies, self.stream, rendered, engine, judged, lambda ids: str(ids[0])
        )
        self.updater = FakeUpdater()
        self.team = SimpleNamespace(take_tokens_scored=lambda: 0)
        self.progress, self.limits = Progress(), Limits(self.config.training)

    def steps(self, count: int) -> list[Record]:
        """Run `count` further steps of the real loop."""
        records = []
        for _ in range(count):
            train_step(self)
            records.append(self.strategies.record)
        return records

    def sync_engine(self) -> None:
        """The engine has no weights."""

    def begin_step(self) -> None:
        """Nothing is rescued."""

    def begin_update(self) -> None:
        """Nothing is rescued."""

    def record_skipped(self, step: int, update: UpdateStats) -> None:
        """Nothing is skipped."""

    def log_step(self, metrics: dict[str, Any], seconds: Any, step: Collected[Sample], weights_NT: FloatArray) -> None:
        self.progress.costs.seconds = 0.0  # which differ between equal runs
        self.strategies.record.logged = metrics | self.progress.costs.metrics()

    def after_step(self, rolled_out: int) -> None:
        """Nothing is evaluated or saved."""


def through_disk(state: Any) -> Any:
    """The state as a checkpoint returns it."""
    with TemporaryDirectory() as folder:
        checkpoint.write_state(Path(folder), {"state": state})
        return checkpoint.read_state(Path(folder))["state"]
