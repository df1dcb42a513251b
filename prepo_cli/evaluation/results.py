"""Results of k answers to each prompt of a dataset: avg@k, pass@j, maj@k, rewards by function, lengths and counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.rewards.metrics import mean_and_std, refuse_unscored
from prepo_cli.statistics import Interval, avg_at_k, maj_at_k, mean_interval, mean_of_intervals, pass_at_k

MAX_SOURCES = 100
"""With more sources than this, a table by source is too long to read."""


@dataclass(frozen=True)
class Evaluation:
    """K answers to each of P prompts.

    `rewards_PK` is the weighted sum over reward functions, `by_function` has each function's own values [P, K], NaN
    where it does not apply. `left_out` counts prompts that were too long, `timeouts` and `errors` completions that
    could not be judged.
    """

    prompt_ids: list[str]
    sources: list[str | None]
    correct_PK: npt.NDArray[np.bool_]
    rewards_PK: npt.NDArray[np.float64]
    by_function: dict[str, npt.NDArray[np.float64]]
    answers_PK: list[list[str | None]]
    lengths_PK: npt.NDArray[np.int64]
    truncated_PK: npt.NDArray[np.bool_]
    completions: list[list[str]]
    prompts: list[str]
    """As text, or messages as JSON."""
    golds: list[str | None]
    seconds: float
    left_out: int = 0
    timeouts: int = 0
    errors: int = 0

    @property
    def k(self) -> int:
        """Samples per prompt."""
        return int(self.correct_PK.shape[1])

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """avg@k, pass@j and maj@k with 95% intervals over prompts, rewards, lengths, counts, time; plain types.

        `rewards` has mean and deviation by function where there are several, `by_source` avg@k by source where sources
        group the prompts; else they are empty.

        Raises:
            ValueError: there are no prompts.
        """
        k = self.k
        avg_P, right_P = avg_at_k(self.correct_PK), self.correct_PK.sum(axis=1)
        measures = {f"avg@{k}": avg_P}
        measures |= {f"pass@{j}": pass_at_k(k, right_P, j) for j in pass_ks(k)}
        measures[f"maj@{k}"] = maj_at_k(self.answers_PK, self.correct_PK)
        return {
            **{name: mean_interval(values_P, seed=seed)._asdict() for name, values_P in measures.items()},
            "reward": float(self.rewards_PK.mean()),
            "rewards": self._rewards(),
            "mean_length": float(self.lengths_PK.mean()),
            "truncated": float(self.truncated_PK.mean()),
            "prompts": len(self.prompt_ids),
            "left_out": self.left_out,
            "timeouts": self.timeouts,
            "errors": self.errors,
            "k": k,
            "seconds": self.seconds,
            "by_source": {
                source: {
                    "prompts": len(rows),
                    f"avg@{k}": mean_interval(avg_P[rows], seed=seed)._asdict(),
                }
                for source, rows in sorted(grouping(self.sources).items())
            },
        }

    def _rewards(self) -> dict[str, dict[str, float]]:
        if len(self.by_function) < 2:  # a single function's values are the reward
            return {}
        return {name: mean_and_std(values_PK.ravel()) for name, values_PK in self.by_function.items()}


def join(parts: Iterable[Evaluation], k: int, keep_texts: bool = True) -> Evaluation:
    """One evaluation of all prompts of `parts`, in order; texts, which take most memory, may be dropped.

    Raises:
        RunError: no reward function scored any of the completions.
    """
    joined = [part if keep_texts else replace(part, completions=[], prompts=[], golds=[]) for part in parts]
    refuse_unscored([part.by_function for part in joined], "the evaluation")

    def stacked(arrays: Iterable[npt.NDArray[Any]], dtype: Any) -> Any:
        return np.concatenate([np.zeros((0, k), dtype), *arrays])

    return Evaluation(
        prompt_ids=[entry for part in joined for entry in part.prompt_ids],
        sources=[entry for part in joined for entry in part.sources],
        correct_PK=stacked((part.correct_PK for part in joined), np.bool_),
        rewards_PK=stacked((part.rewards_PK for part in joined), np.float64),
        by_function={
            name: stacked((part.by_function[name] for part in joined), np.float64)
            for name in (joined[0].by_function if joined else ())
        },
        answers_PK=[entry for part in joined for entry in part.answers_PK],
        lengths_PK=stacked((part.lengths_PK for part in joined), np.int64),
        truncated_PK=stacked((part.truncated_PK for part in joined), np.bool_),
        completions=[entry for part in joined for entry in part.completions],
        prompts=[entry for part in joined for entry in part.prompts],
        golds=[entry for part in joined for entry in part.golds],
        seconds=sum(part.seconds for part in joined),
        left_out=sum(part.left_out for part in joined),
        timeouts=sum(part.timeouts for part in joined),
        errors=sum(part.errors for part in joined),
    )


def accuracies(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of a summary, each with its interval: avg@k, pass@j and maj@k."""
    return {name: value for name, value in summary.items() if "@" in name}


def joined_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The evaluations of several datasets by name, and the unweighted means of their accuracies; plain types."""
    means = {
        name: mean_of_intervals([Interval(**summary[name]) for summary in summaries])._asdict()
        for name in accuracies(summaries[0])
    }
    return {
        "model": summaries[0]["model"],
        "mean": means,
        "datasets": {summary["dataset"]: dict(summary) for summary in summaries},
    }


def pass_ks(k: int) -> Iterator[int]:
    """1, 2, 4 and so on below k, then k.

    >>> list(pass_ks(6))
    [1, 2, 4, 6]
    """
    j = 1
    while j < k:
        yield j
        j *= 2
    yield k


def grouping(sources: list[str | None]) -> dict[str, list[int]]:
    """Rows of each source where sources group the prompts: at most 100 sources, of 2 prompts or more on average.

    A single source of all prompts would only repeat the total, and one source per prompt (a URL, say) makes no table.
    Prompts without a source are in no group.

    >>> grouping(["aime", "math", "math", "aime"])
    {'aime': [0, 3], 'math': [1, 2]}
    >>> grouping(["page 1", "page 2", "page 3"]), grouping(["math", "math"])
    ({}, {})
    """
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(sources):
        if source is not None:
            rows.setdefault(source, []).append(row)
    sourced = sum(map(len, rows.values()))
    covers_all = len(rows) == 1 and sourced == len(sources)
    return {} if covers_all or len(rows) > min(MAX_SOURCES, sourced // 2) else rows
