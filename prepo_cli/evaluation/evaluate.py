"""Sampling k answers to every prompt of a dataset, and what they say.

The seed of a sample depends on the evaluation's seed, the prompt's id and the sample's number alone: before and after
training a prompt is answered with the same random numbers, which makes their difference sharper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prepo_cli.engines.base import Generator, Request, Rollout
from prepo_cli.rewards.answers import final_answer
from prepo_cli.rewards.judge import Judge, columns_of
from prepo_cli.statistics import Interval, avg_at_k, bootstrap_interval, maj_at_k, pass_at_k
from strategies.types import derive_seed

if TYPE_CHECKING:
    from prepo_cli.data.loading import PromptDataset
    from prepo_cli.data.rendering import Renderer

ROLLOUTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. Prompts of more than `max_prompt_length` tokens are left out."""

    k: int
    temperature: float
    top_p: float
    max_completion_length: int
    max_prompt_length: int | None
    seed: int
    correct_reward: float = 1.0

    @property
    def rows_at_once(self) -> int:
        """Dataset rows in a chunk."""
        return max(1, ROLLOUTS_AT_ONCE // self.k)


@dataclass(frozen=True)
class Evaluation:
    """K answers to each of P prompts. `left_out` counts prompts that were too long."""

    prompt_ids: list[str]
    sources: list[str | None]
    correct_PK: npt.NDArray[np.bool_]
    rewards_PK: npt.NDArray[np.float64]
    answers_PK: list[list[str | None]]
    lengths_PK: npt.NDArray[np.int64]
    truncated_PK: npt.NDArray[np.bool_]
    completions: list[list[str]]
    seconds: float
    left_out: int = 0
    timeouts: int = 0

    @property
    def k(self) -> int:
        """Samples of each prompt."""
        return int(self.correct_PK.shape[1])

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """avg@k, pass@j and maj@k with 95 % intervals over prompts, rows by source, lengths and cost; plain types.

        Raises:
            ValueError: there is no prompt.
        """
        k = self.k
        avg_P = avg_at_k(self.correct_PK)
        right_P = self.correct_PK.sum(axis=1)
        result: dict[str, Any] = {f"avg@{k}": _row(bootstrap_interval(avg_P, seed=seed))}
        for j in pass_ks(k):
            result[f"pass@{j}"] = _row(bootstrap_interval(pass_at_k(k, right_P, j), seed=seed))
        result[f"maj@{k}"] = _row(bootstrap_interval(maj_at_k(self.answers_PK, self.correct_PK), seed=seed))
        result |= {
            "reward": float(self.rewards_PK.mean()),
            "mean_length": float(self.lengths_PK.mean()),
            "truncated": float(self.truncated_PK.mean()),
            "prompts": len(self.prompt_ids),
            "left_out": self.left_out,
            "timeouts": self.timeouts,
            "k": k,
            "seconds": self.seconds,
            "by_source": {},
        }
        rows_by_source: dict[str, list[int]] = {}
        for row, source in enumerate(self.sources):
            if source is not None:
                rows_by_source.setdefault(source, []).append(row)
        for source, rows in sorted(rows_by_source.items()):
            interval = bootstrap_interval(avg_P[rows], seed=seed)
            result["by_source"][source] = {"prompts": len(rows), f"avg@{k}": _row(interval)}
        return result


def evaluate(
    engine: Generator,
    tokenizer: Any,
    dataset: PromptDataset,
    renderer: Renderer,
    judge: Judge,
    *,
    k: int,
    temperature: float,
    top_p: float,
    max_completion_length: int,
    max_prompt_length: int | None,
    seed: int,
    correct_reward: float = 1.0,
    progress: Callable[[int], Any] | None = None,
) -> Evaluation:
    """Answer every prompt k times; `progress` is told of rollouts as they finish, left-out ones among them."""
    sampling = Sampling(k, temperature, top_p, max_completion_length, max_prompt_length, seed, correct_reward)
    size = sampling.rows_at_once
    return join(
        (
            evaluate_rows(
                range(start, min(start + size, len(dataset))),
                engine,
                tokenizer,
                dataset,
                renderer,
                judge,
                sampling,
                progress,
            )
            for start in range(0, len(dataset), size)
        ),
        k,
    )


def evaluate_rows(
    rows: Iterable[int],
    engine: Generator,
    tokenizer: Any,
    dataset: PromptDataset,
    renderer: Renderer,
    judge: Judge,
    sampling: Sampling,
    progress: Callable[[int], Any] | None = None,
) -> Evaluation:
    """Answer the prompts of some dataset rows."""
    started = perf_counter()
    taken, requests, left_out = [], [], 0
    for row in rows:
        token_ids = renderer(dataset.messages(row)).token_ids
        if sampling.max_prompt_length is not None and len(token_ids) > sampling.max_prompt_length:
            left_out += 1
        else:
            taken.append(row)
            requests.append(_request(token_ids, dataset.prompt(row).id, sampling))
    if progress is not None and left_out:
        progress(left_out * sampling.k)
    rollouts = [r for group in (engine.generate(requests, progress) if requests else []) for r in group]
    texts = [str(tokenizer.decode(r.token_ids, skip_special_tokens=True)) for r in rollouts]
    owners = [row for row in taken for _ in range(sampling.k)]
    columns = columns_of([{**dataset.fields(row), "answer": dataset.answer(row)} for row in owners])
    scores = judge([dataset.question(row) for row in owners], texts, columns)
    prompts = [dataset.prompt(row) for row in taken]
    rewards_PK = scores.rewards_N.reshape(len(taken), sampling.k)
    return Evaluation(
        prompt_ids=[prompt.id for prompt in prompts],
        sources=[prompt.source for prompt in prompts],
        correct_PK=rewards_PK >= sampling.correct_reward,
        rewards_PK=rewards_PK,
        answers_PK=_in_rows([final_answer(text) for text in texts], sampling.k),
        lengths_PK=_grid(rollouts, sampling.k, lambda r: len(r.token_ids), np.int64),
        truncated_PK=_grid(rollouts, sampling.k, lambda r: r.truncated, np.bool_),
        completions=_in_rows(texts, sampling.k),
        seconds=perf_counter() - started,
        left_out=left_out,
        timeouts=scores.timeouts,
    )


def join(chunks: Iterable[Evaluation], k: int, keep_completions: bool = True) -> Evaluation:
    """One evaluation of all prompts of `chunks`, in order; texts, which take most room, may be dropped on the way."""
    parts = [chunk if keep_completions else replace(chunk, completions=[]) for chunk in chunks]

    def stacked(name: str, dtype: Any) -> Any:
        return np.concatenate([np.zeros((0, k), dtype), *(getattr(part, name) for part in parts)])

    def chained(name: str) -> list[Any]:
        return [entry for part in parts for entry in getattr(part, name)]

    return Evaluation(
        prompt_ids=chained("prompt_ids"),
        sources=chained("sources"),
        correct_PK=stacked("correct_PK", np.bool_),
        rewards_PK=stacked("rewards_PK", np.float64),
        answers_PK=chained("answers_PK"),
        lengths_PK=stacked("lengths_PK", np.int64),
        truncated_PK=stacked("truncated_PK", np.bool_),
        completions=chained("completions"),
        seconds=sum(part.seconds for part in parts),
        left_out=sum(part.left_out for part in parts),
        timeouts=sum(part.timeouts for part in parts),
    )


def pass_ks(k: int) -> Iterator[int]:
    """1, 2, 4 and so on below k, then k."""
    j = 1
    while j < k:
        yield j
        j *= 2
    yield k


def _request(token_ids: list[int], prompt_id: str, sampling: Sampling) -> Request:
    seeds = [derive_seed(sampling.seed, "eval", prompt_id, j) for j in range(sampling.k)]
    return Request(token_ids, seeds, sampling.temperature, sampling.max_completion_length, sampling.top_p)


def _row(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def _in_rows(values: list[Any], k: int) -> list[list[Any]]:
    return [values[start : start + k] for start in range(0, len(values), k)]


def _grid(rollouts: list[Rollout], k: int, value: Callable[[Rollout], Any], dtype: Any) -> Any:
    return np.array([value(rollout) for rollout in rollouts], dtype=dtype).reshape(-1, k)
