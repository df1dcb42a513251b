"""A step's rollouts, made by an engine and judged by reward functions, in rounds (rounds.py).

Every generated rollout is charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from prepo_cli.data.prompts import Prompts
from prepo_cli.data.stream import PromptStream
from prepo_cli.engines.base import Generator, Request
from prepo_cli.rewards.judge import Judge, Scores, columns_of
from prepo_cli.rewards.metrics import refuse_unscored
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.lengths import ExpectedLengths
from prepo_cli.training.rollouts import Collected, Sample
from prepo_cli.training.rounds import BatchShape, Rounds
from prepo_cli.training.stopwatch import Stopwatch
from strategies import StrategySet
from strategies.types import Prompt, StepContext, derive_seed


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

    def collect(self, ctx: StepContext, watch: Stopwatch) -> Collected[Sample]:
        """Roll out until `prompts_per_step` groups are kept, or the rounds are used up.

        Raises:
            RunError: no reward function scored any of the rollouts.
        """
        training = self.training
        shape = BatchShape(
            training.prompts_per_step,
            training.num_generations,
            training.max_rounds,
            training.mask_truncated_completions,
        )
        roller = _Roller(self, watch)
        step = Rounds(self.strategies, self.stream, shape, roller).collect(ctx, watch)
        step.scores = roller.scores
        refuse_unscored([scores.by_function for scores in step.scores], f"step {ctx.step}")
        return step


class _Roller:
    """Rolls out and judges. `numbers` counts the step's rollouts by prompt id."""

    def __init__(self, collector: Collector, watch: Stopwatch) -> None:
        self.collector, self.watch = collector, watch
        self.numbers: Counter[str] = Counter()
        self.scores: list[Scores] = []

    def __call__(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[Sample]]:
        with self.watch.phase("generate"):
            groups = self._generate(prompts, counts, ctx)
        with self.watch.phase("reward"):
            self._judge([sample for group in groups for sample in group])
        return groups

    def _generate(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[Sample]]:
        collector = self.collector
        rendered = [collector.prompts.rendered(prompt.index).token_ids for prompt in prompts]
        active = [i for i, count in enumerate(counts) if count]
        requests = [self._request(prompts[i], rendered[i], counts[i], ctx) for i in active]
        groups: list[list[Sample]] = [[] for _ in prompts]
        for i, rollouts in zip(active, collector.engine.generate(requests), strict=True):
            collector.lengths.observe(prompts[i].index, [len(rollout.token_ids) for rollout in rollouts])
            groups[i] = [
                Sample(prompts[i], list(rendered[i]), rollout, collector.decode(rollout.token_ids), ctx.temperature)
                for rollout in rollouts
            ]
        return groups

    def _request(self, prompt: Prompt, prompt_ids: list[int], count: int, ctx: StepContext) -> Request:
        training = self.collector.training
        # A prompt may occur twice in a step; consecutive numbers give each of its rollouts its own seed.
        first = self.numbers[prompt.id]
        self.numbers[prompt.id] += count
        return Request(
            prompt_ids=prompt_ids,
            seeds=[
                derive_seed(ctx.seed, "rollout", ctx.step, prompt.id, number) for number in range(first, first + count)
            ],
            temperature=ctx.temperature,
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
        self.scores.append(scores)
        for i, sample in enumerate(samples):
            sample.reward, sample.correct = float(scores.rewards_N[i]), bool(scores.correct_N[i])
            sample.rewards = {name: float(values_N[i]) for name, values_N in scores.by_function.items()}
