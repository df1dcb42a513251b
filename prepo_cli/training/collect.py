"""A step's rollouts: rounds of select, allocate, generate, reward, observe, filter, until the batch is full.

All that is generated is charged. Rounds after the first exist only where the filter refills; their size follows
GRESO (2506.02177): ceil(1.25 * missing / (1 - zero-variance share so far)), at most a full round, at least one prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from prepo_cli.data.rendering import Rendered
from prepo_cli.data.stream import PromptStream
from prepo_cli.engines.base import Generator, Request, Rollout
from prepo_cli.rewards.judge import Judge, columns_of
from prepo_cli.sections import RunConfig
from prepo_cli.training.lengths import ExpectedLengths
from prepo_cli.training.prompts import Prompts
from strategies.strategy_set import StrategySet
from strategies.types import Completion, FloatArray, Group, Prompt, StepContext, derive_seed

OVERSAMPLE = 1.25


@dataclass(slots=True)
class Sample:
    """One rollout with all that the trainer knows of it. `fate` is 'trained' or why it was not."""

    prompt: Prompt
    prompt_ids: list[int]
    rollout: Rollout
    text: str
    temperature: float
    reward: float = 0.0
    correct: bool = False
    fate: str = "trained"
    advantage: float = 0.0
    weight: float = 0.0
    old_logprobs: FloatArray | None = None
    """Under the trainer, where a forward pass was made for them."""
    entropies: FloatArray | None = None
    """Of each token (nats), once they are known: from the engine, or else from that pass."""

    def completion(self) -> Completion:
        """What strategies see of it."""
        entropies = self.rollout.entropies if self.entropies is None else self.entropies
        return Completion(
            reward=self.reward,
            correct=self.correct,
            num_tokens=len(self.rollout.token_ids),
            truncated=self.rollout.truncated,
            temperature=self.temperature,
            entropy=float(np.mean(entropies, dtype=np.float64)) if entropies is not None and len(entropies) else None,
        )


@dataclass(slots=True)
class Collected:
    """All groups of a step in the order they were rolled, and what they took."""

    groups: list[list[Sample]] = field(default_factory=list)
    rounds: int = 0
    timeouts: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"select": 0.0, "generate": 0.0, "reward": 0.0})

    @property
    def samples(self) -> list[Sample]:
        """Every rollout generated."""
        return [sample for group in self.groups for sample in group]

    @property
    def trained(self) -> list[list[Sample]]:
        """The rollouts to train on, by group; groups of which nothing is kept are left out."""
        kept = ([s for s in group if s.fate == "trained"] for group in self.groups)
        return [group for group in kept if group]


class Collector:
    """Fills a training batch."""

    def __init__(
        self,
        config: RunConfig,
        strategies: StrategySet,
        stream: PromptStream,
        prompts: Prompts,
        engine: Generator,
        judge: Judge,
        decode: Callable[[list[int]], str],
    ) -> None:
        self.config, self.strategies, self.stream = config, strategies, stream
        self.prompts, self.engine, self.judge, self.decode = prompts, engine, judge, decode
        self.lengths = ExpectedLengths(len(prompts.dataset))

    def collect(self, ctx: StepContext) -> Collected:
        """Roll out until `prompts_per_step` groups are kept, or the rounds are used up."""
        wanted = self.config.training.prompts_per_step
        step = Collected()
        numbers: Counter[str] = Counter()
        while True:
            size = self._round_size(step, wanted)
            ctx = replace(ctx, round=step.rounds)
            groups = self._round(size, ctx, step, numbers)
            self._filter(groups, ctx, wanted - len(step.trained))
            step.groups += groups
            step.rounds += 1
            full = len(step.trained) >= wanted
            if full or not self.strategies.filter.refills or step.rounds >= self.config.training.max_rounds:
                return step

    def _round_size(self, step: Collected, wanted: int) -> int:
        if not step.groups:
            return wanted
        zero = sum(_record(group).zero_variance for group in step.groups) / len(step.groups)
        missing = wanted - len(step.trained)
        return wanted if zero >= 1 else max(1, min(wanted, math.ceil(OVERSAMPLE * missing / (1 - zero) - 1e-9)))

    def _round(self, size: int, ctx: StepContext, step: Collected, numbers: Counter[str]) -> list[list[Sample]]:
        started = perf_counter()
        prompts = self.strategies.select(size, self.stream, ctx)
        total = size * self.config.training.num_generations
        counts = self.strategies.allocate(prompts, total, ctx)
        step.seconds["select"] += perf_counter() - started
        groups: list[list[Sample]] = [[] for _ in prompts]
        rendered = [self.prompts.rendered(p.index) for p in prompts]
        while any(counts):
            self._extend(groups, prompts, rendered, counts, ctx, step, numbers)
            remaining = total - sum(map(len, groups))
            if remaining <= 0:
                break
            counts = self.strategies.top_up([_record(group) for group in groups], remaining, ctx)
        self.strategies.observe([_record(group) for group in groups], ctx)
        return groups

    def _extend(
        self,
        groups: list[list[Sample]],
        prompts: Sequence[Prompt],
        rendered: Sequence[Rendered],
        counts: Sequence[int],
        ctx: StepContext,
        step: Collected,
        numbers: Counter[str],
    ) -> None:
        """Generate and judge `counts` further rollouts for each group."""
        training = self.config.training
        asked = [i for i, count in enumerate(counts) if count]
        requests = []
        for i in asked:
            # A prompt may come up twice in a step; numbering its rollouts on gives each its own random stream.
            first = numbers[prompts[i].id]
            numbers[prompts[i].id] += counts[i]
            seeds = [
                derive_seed(self.config.seed, "rollout", ctx.step, prompts[i].id, number)
                for number in range(first, first + counts[i])
            ]
            requests.append(
                Request(
                    rendered[i].token_ids,
                    seeds,
                    ctx.temperature,
                    training.max_completion_length,
                    training.top_p,
                    self.lengths[prompts[i].index],
                )
            )
        started = perf_counter()
        generated = self.engine.generate(requests)
        step.seconds["generate"] += perf_counter() - started
        fresh = []
        for i, rollouts in zip(asked, generated, strict=True):
            self.lengths.observe(prompts[i].index, [len(rollout.token_ids) for rollout in rollouts])
            for rollout in rollouts:
                text = self.decode(rollout.token_ids)
                sample = Sample(prompts[i], list(rendered[i].token_ids), rollout, text, ctx.temperature)
                groups[i].append(sample)
                fresh.append(sample)
        started = perf_counter()
        self._judge(fresh, step)
        step.seconds["reward"] += perf_counter() - started

    def _judge(self, samples: Sequence[Sample], step: Collected) -> None:
        columns = columns_of([self.prompts.dataset.fields(sample.prompt.index) for sample in samples])
        questions = [self.prompts.dataset.question(sample.prompt.index) for sample in samples]
        scores = self.judge(questions, [sample.text for sample in samples], columns)
        step.timeouts += scores.timeouts
        for sample, reward in zip(samples, scores.rewards_N, strict=True):
            sample.reward = float(reward)
            sample.correct = sample.reward >= self.config.rewards.correct_reward

    def _filter(self, groups: list[list[Sample]], ctx: StepContext, missing: int) -> None:
        """Give every rollout its fate; whole groups beyond what is missing are surplus."""
        for group in groups:
            mask_N = self.strategies.keep(_record(group), ctx)
            surplus = bool(mask_N.any()) and missing <= 0
            missing -= bool(mask_N.any())
            for sample, kept in zip(group, mask_N, strict=True):
                sample.fate = "surplus" if kept and surplus else "trained" if kept else "filtered"


def _record(group: Sequence[Sample]) -> Group:
    return Group(group[0].prompt, tuple(sample.completion() for sample in group))
