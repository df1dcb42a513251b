"""A step's rollouts: rounds of select, allocate, generate, reward, observe, filter, until the batch is full.

Every generated rollout is charged. There are rounds after the first only if the filter refills; their size follows
GRESO's public code (2506.02177): int(1.25 * missing / (1 - zero-variance share so far)), at most a full round, at
least one prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Rendered
from prepo_cli.data.stream import PromptStream
from prepo_cli.engines.base import Generator, Request
from prepo_cli.rewards.judge import Judge, columns_of
from prepo_cli.rewards.metrics import refuse_unscored
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.lengths import ExpectedLengths
from prepo_cli.training.rollouts import Collected, Sample, record
from prepo_cli.training.stopwatch import Stopwatch
from strategies import StrategySet
from strategies.types import Prompt, StepContext, derive_seed

OVERSAMPLE = 1.25


class Collector:
    """Fills a training batch."""

    def __init__(
        self,
        training: TrainingConfig,
        strategies: StrategySet,
        stream: PromptStream,
        prompts: Prompts,
        engine: Generator,
        judge: Judge,
        decode: Callable[[list[int]], str],
    ) -> None:
        self.training, self.strategies, self.stream = training, strategies, stream
        self.prompts, self.engine, self.judge, self.decode = prompts, engine, judge, decode
        self.lengths = ExpectedLengths(strategies.run.num_prompts)

    def collect(self, ctx: StepContext, watch: Stopwatch) -> Collected:
        """Roll out until `prompts_per_step` groups are kept, or the rounds are used up.

        Raises:
            RunError: no reward function scored any of the rollouts.
        """
        wanted = self.training.prompts_per_step
        step = Collected()
        numbers: Counter[str] = Counter()
        self.stream.begin_step()
        while True:
            ctx = replace(ctx, round=step.rounds)
            groups = _Round(self, refill_size(step, wanted), ctx, step, numbers, watch).run()
            with watch.phase("select"):
                self._filter(groups, ctx, wanted - len(step.kept))
            step.groups += groups
            step.rounds += 1
            full = len(step.kept) >= wanted
            if full or not self.strategies.filter.refills or step.rounds >= self.training.max_rounds:
                refuse_unscored([scores.by_function for scores in step.scores], f"step {ctx.step}")
                return step

    def _filter(self, groups: list[list[Sample]], ctx: StepContext, missing: int) -> None:
        """Set the fate of every rollout; groups beyond the `missing` ones are surplus."""
        for group in groups:
            mask_N = self.strategies.keep(record(group), ctx)
            surplus = bool(mask_N.any()) and missing <= 0
            missing -= bool(mask_N.any())
            for sample, kept in zip(group, mask_N, strict=True):
                if not kept:
                    sample.fate = "filtered"
                elif surplus:
                    sample.fate = "surplus"
                elif self.training.mask_truncated_completions and sample.rollout.truncated:
                    sample.fate = "masked"


def refill_size(step: Collected, wanted: int) -> int:
    """Number of prompts in the next round: a full round at first, then what will probably fill the batch."""
    if not step.groups:
        return wanted
    zero = sum(record(group).zero_variance for group in step.groups) / len(step.groups)
    if zero >= 1:
        return wanted
    missing = wanted - len(step.kept)
    return max(1, min(wanted, int(OVERSAMPLE * missing / (1 - zero))))


class _Round:
    """One round: its prompts and their groups so far. `numbers` counts the step's rollouts by prompt id."""

    def __init__(
        self,
        collector: Collector,
        size: int,
        ctx: StepContext,
        step: Collected,
        numbers: Counter[str],
        watch: Stopwatch,
    ) -> None:
        self.collector, self.ctx, self.step, self.numbers, self.watch = collector, ctx, step, numbers, watch
        self.total = size * collector.training.num_generations
        with watch.phase("select"):
            self.prompts: list[Prompt] = collector.stream.without_repeats(
                collector.strategies.select(size, collector.stream, ctx)
            )
            self.counts = collector.strategies.allocate(self.prompts, self.total, ctx)
            self.rendered: list[Rendered] = [collector.prompts.rendered(prompt.index) for prompt in self.prompts]
        self.groups: list[list[Sample]] = [[] for _ in self.prompts]

    def run(self) -> list[list[Sample]]:
        """Generate and judge until the round's rollouts are used up or the budget strategy stops topping up."""
        counts = self.counts
        strategies = self.collector.strategies
        while any(counts):
            with self.watch.phase("generate"):
                fresh = self._generate(counts)
            with self.watch.phase("reward"):
                self._judge(fresh)
            remaining = self.total - sum(map(len, self.groups))
            if remaining <= 0:
                break
            with self.watch.phase("select"):
                counts = strategies.top_up([record(group) for group in self.groups], remaining, self.ctx)
        with self.watch.phase("select"):
            strategies.observe([record(group) for group in self.groups], self.ctx)
        return self.groups

    def _generate(self, counts: Sequence[int]) -> list[Sample]:
        """Generate `counts` more rollouts, one count for each prompt."""
        active = [i for i, count in enumerate(counts) if count]
        requests = [self._request(i, counts[i]) for i in active]
        generated = self.collector.engine.generate(requests)
        fresh = []
        for i, rollouts in zip(active, generated, strict=True):
            prompt, prompt_ids = self.prompts[i], list(self.rendered[i].token_ids)
            self.collector.lengths.observe(prompt.index, [len(rollout.token_ids) for rollout in rollouts])
            samples = [
                Sample(prompt, prompt_ids, rollout, self.collector.decode(rollout.token_ids), self.ctx.temperature)
                for rollout in rollouts
            ]
            self.groups[i] += samples
            fresh += samples
        return fresh

    def _request(self, i: int, count: int) -> Request:
        prompt, training = self.prompts[i], self.collector.training
        # A prompt may occur twice in a step; consecutive numbers give each of its rollouts its own seed.
        first = self.numbers[prompt.id]
        self.numbers[prompt.id] += count
        return Request(
            prompt_ids=self.rendered[i].token_ids,
            seeds=[
                derive_seed(self.ctx.seed, "rollout", self.ctx.step, prompt.id, number)
                for number in range(first, first + count)
            ],
            temperature=self.ctx.temperature,
            max_tokens=training.max_completion_length,
            top_p=training.top_p,
            expected_tokens=self.collector.lengths[prompt.index],
        )

    def _judge(self, samples: Sequence[Sample]) -> None:
        dataset = self.collector.prompts.dataset
        columns = columns_of([dataset.fields(sample.prompt.index) for sample in samples])
        columns["completion_ids"] = [sample.rollout.token_ids for sample in samples]
        prompts = [dataset.given(sample.prompt.index) for sample in samples]
        scores = self.collector.judge(prompts, [sample.text for sample in samples], columns)
        self.step.scores.append(scores)
        for i, sample in enumerate(samples):
            sample.reward, sample.correct = float(scores.rewards_N[i]), bool(scores.correct_N[i])
            sample.rewards = {name: float(values_N[i]) for name, values_N in scores.by_function.items()}
