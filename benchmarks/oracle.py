"""What perfect selection could save: a selector that knows every prompt's current pass rate, for which it pays nothing.

Every `refresh` steps it rolls out the whole training set under the current policy, without charging the run, and draws
a step's prompts with weights 1 - p^G - (1 - p)^G: the probability that G rewards differ. No strategy can know as much.
It measures how far a strategy is from the best that choosing prompts can do, and is not part of the package.

    python -m prepo_cli train --selector benchmarks.oracle:Oracle --dataset embedded:dead=0.8
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from prepo_cli.engines.base import Request
from prepo_cli.rewards.judge import Judge, columns_of
from prepo_cli.sections import RewardConfig
from prepo_cli.training.probe import PolicyProbe
from strategies import Prompt, PromptSource, RunInfo, Selector, StepContext, StrategyParams
from strategies.base import State
from strategies.history import restored
from strategies.types import FloatArray, IntArray, derive_seed

MAX_TOKENS = 96


class Oracle(Selector):
    """Knows every prompt's current pass rate for free and draws those whose rewards will probably differ."""

    class Params(StrategyParams):
        """How much is rolled out, and how long it counts."""

        refresh: int = Field(32, ge=1, description="steps between two looks at the whole training set")
        rollouts: int = Field(8, ge=1, description="of each prompt, at each look")
        keep: float = Field(0.5, ge=0, le=1, description="share of older rollouts that still counts at the next look")
        record: str = Field("", description="folder to write what every look finds to, for benchmarks.replay")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.right_P = np.zeros(run.num_prompts)
        self.total_P = np.zeros(run.num_prompts)

    @cached_property
    def _judge(self) -> Judge:
        return Judge(RewardConfig())

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        prompts = source.take(self.run.num_prompts)
        index_P = np.array([prompt.index for prompt in prompts])
        if ctx.step % self.params.refresh == 0 and ctx.round == 0:
            self.right_P *= self.params.keep
            self.total_P *= self.params.keep
            solved_P = self._solved(prompts, ctx)
            self.right_P[index_P] += solved_P
            self.total_P[index_P] += self.params.rollouts
            if self.params.record:
                self._write(prompts, index_P, solved_P, ctx)
        rate_P = np.divide(self.right_P, self.total_P, out=np.zeros(len(prompts)), where=self.total_P > 0)[index_P]
        group = self.run.num_generations
        log_weight_P = np.log(1 - rate_P**group - (1 - rate_P) ** group + 1e-9)
        chosen = np.argsort(-(log_weight_P + ctx.rng("selector/oracle").gumbel(size=len(prompts))), kind="stable")[:n]
        return [prompts[i] for i in chosen]

    def _solved(self, prompts: Sequence[Prompt], ctx: StepContext) -> FloatArray:
        """How many rollouts of each prompt are correct."""
        probe = ctx.probe
        assert isinstance(probe, PolicyProbe)
        k, dataset = self.params.rollouts, probe.prompts.dataset
        requests = [
            Request(
                prompt_ids=probe.prompts.rendered(prompt.index).token_ids,
                seeds=[derive_seed(ctx.seed, "oracle", ctx.step, prompt.id, number) for number in range(k)],
                temperature=ctx.temperature,
                max_tokens=MAX_TOKENS,
            )
            for prompt in prompts
        ]
        rollouts = probe.team.generate(requests)
        tokenizer = probe.team.learner.policy.tokenizer
        rows = [prompt.index for prompt in prompts for _ in range(k)]
        texts = [
            tokenizer.decode(rollout.token_ids, skip_special_tokens=True) for group in rollouts for rollout in group
        ]
        scores = self._judge([dataset.question(i) for i in rows], texts, columns_of([dataset.fields(i) for i in rows]))
        return np.asarray(scores.correct_N.reshape(len(prompts), k).sum(axis=1), dtype=np.float64)

    def _write(self, prompts: Sequence[Prompt], index_P: IntArray, solved_P: FloatArray, ctx: StepContext) -> None:
        """Pass rate, perplexity, length and source by row, as of this step."""
        by_row = np.argsort(index_P)
        rate_P, ppl_P = solved_P / self.params.rollouts, ctx.probe.perplexity(prompts)
        lengths = np.array([prompt.num_tokens for prompt in prompts], dtype=np.int32)
        sources = np.array([prompt.source or "" for prompt in prompts])
        folder = Path(self.params.record)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            folder / f"step_{ctx.step:06d}.npz",
            rate=rate_P[by_row].astype(np.float32),
            ppl=ppl_P[by_row].astype(np.float32),
            num_tokens=lengths[by_row],
            source=sources[by_row],
        )

    def state_dict(self) -> State:
        return {"right": self.right_P.copy(), "total": self.total_P.copy()}

    def load_state_dict(self, state: State) -> None:
        self.right_P, self.total_P = restored(state["right"], self.right_P), restored(state["total"], self.total_P)
