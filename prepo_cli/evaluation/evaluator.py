"""Sampling k answers to every prompt of a dataset, once or repeatedly during training.

The seed of a sample depends only on the evaluation's seed, the prompt's id and the sample's number: before and after
training, a prompt is answered with the same random numbers, which narrows the interval of their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from prepo_cli.data.columns import gold_text, prompt_text
from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.prompts import Prompts
from prepo_cli.engines.base import Generator, Progress, Request, Rollout
from prepo_cli.evaluation.reading import Reader
from prepo_cli.evaluation.results import Evaluation, join
from prepo_cli.rewards.answers import final_answer
from prepo_cli.rewards.judge import Judge, columns_of
from strategies.types import Prompt, derive_seed

ROLLOUTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled."""

    k: int
    temperature: float
    top_p: float
    max_completion_length: int
    seed: int


class Evaluator:
    """Evaluates the engine's current policy, always on the same prompts."""

    def __init__(self, engine: Generator, tokenizer: Any, prompts: Prompts, judge: Judge, sampling: Sampling) -> None:
        self.engine, self.tokenizer, self.prompts = engine, tokenizer, prompts
        self.judge, self.sampling = judge, sampling

    @property
    def dataset(self) -> PromptDataset:
        """The prompts' dataset."""
        return self.prompts.dataset

    def on(self, dataset: PromptDataset) -> Evaluator:
        """The same evaluator on the prompts of another dataset."""
        prompts = Prompts(dataset, self.prompts.renderer, self.prompts.max_length)
        return Evaluator(self.engine, self.tokenizer, prompts, self.judge, self.sampling)

    @property
    def chunks(self) -> list[range]:
        """All rows of the dataset, in chunks that are generated and judged together."""
        size, total = max(1, ROLLOUTS_AT_ONCE // self.sampling.k), len(self.dataset)
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def evaluate(self, progress: Progress | None = None) -> Evaluation:
        """Answer every prompt k times; rollouts of prompts that are left out count as progress too."""
        return join((self.evaluate_rows(rows, progress) for rows in self.chunks), self.sampling.k)

    def evaluate_rows(self, rows: Iterable[int], progress: Progress | None = None) -> Evaluation:
        """Answer the prompts of these rows of the dataset k times."""
        return self.evaluate_prompts(self.render(rows), progress)

    def render(self, rows: Iterable[int]) -> list[Prompt | None]:
        """The prompts of these rows, None where one is too long; their tokens are kept for `evaluate_prompts`."""
        return [self.prompts.get(row) for row in rows]

    def evaluate_prompts(self, found: Sequence[Prompt | None], progress: Progress | None = None) -> Evaluation:
        """Answer these prompts k times."""
        started, k = perf_counter(), self.sampling.k
        prompts = [prompt for prompt in found if prompt is not None]
        left_out = len(found) - len(prompts)
        if progress is not None and left_out:
            progress(left_out * k)
        reader = Reader(
            self._decode, self.judge, [self.dataset.fields(prompt.index).get("answer") for prompt in prompts]
        )

        def finished(request: int, number: int, rollout: Rollout) -> None:
            reader(request, number, rollout)
            if progress is not None:
                progress(1)

        groups = self.engine.generate([self._request(prompt) for prompt in prompts], finished) if prompts else []
        rollouts = [rollout for group in groups for rollout in group]
        texts = [text for group in reader.texts(groups) for text in group]
        row_of_rollout = [prompt.index for prompt in prompts for _ in range(k)]
        columns = columns_of([self.dataset.fields(row) for row in row_of_rollout])
        columns["completion_ids"] = [rollout.token_ids for rollout in rollouts]
        scores = self.judge([self.dataset.given(row) for row in row_of_rollout], texts, columns)
        return Evaluation(
            prompt_ids=[prompt.id for prompt in prompts],
            sources=[prompt.source for prompt in prompts],
            correct_PK=scores.correct_N.reshape(-1, k),
            rewards_PK=scores.rewards_N.reshape(-1, k),
            by_function={name: values_N.reshape(-1, k) for name, values_N in scores.by_function.items()},
            answers_PK=_in_rows([final_answer(text) for text in texts], k),
            lengths_PK=_grid(rollouts, k, lambda rollout: len(rollout.token_ids), np.int64),
            truncated_PK=_grid(rollouts, k, lambda rollout: rollout.truncated, np.bool_),
            completions=_in_rows(texts, k),
            prompts=[prompt_text(self.dataset.messages(prompt.index)) for prompt in prompts],
            golds=[gold_text(self.dataset.answer(prompt.index)) for prompt in prompts],
            seconds=perf_counter() - started,
            left_out=left_out,
            timeouts=scores.timeouts,
            errors=scores.errors,
        )

    def _decode(self, token_ids: list[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _request(self, prompt: Prompt) -> Request:
        sampling, token_ids = self.sampling, self.prompts.rendered(prompt.index).token_ids
        seeds = [derive_seed(sampling.seed, "eval", prompt.id, number) for number in range(sampling.k)]
        return Request(token_ids, seeds, sampling.temperature, sampling.max_completion_length, sampling.top_p)


def _in_rows(values: list[Any], k: int) -> list[list[Any]]:
    return [values[start : start + k] for start in range(0, len(values), k)]


def _grid(rollouts: list[Rollout], k: int, value: Callable[[Rollout], Any], dtype: Any) -> Any:
    return np.array([value(rollout) for rollout in rollouts], dtype=dtype).reshape(-1, k)
