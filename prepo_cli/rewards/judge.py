"""The judge: runs all reward functions over a list of completions and says which completions are correct.

`math` runs in worker processes with a time-out for each completion; the others are called here, once, with whole
lists. Correctness is decided by one function (`RewardConfig.verdict_function`) on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import RunError, UsageError
from prepo_cli.machine import cores
from prepo_cli.rewards.answers import alternatives
from prepo_cli.rewards.functions import MATH, RewardFunction, find
from prepo_cli.rewards.pool import WorkerPool
from prepo_cli.rewards.verify import Job, prepare
from prepo_cli.sections import RewardConfig

MAX_WORKERS = 8
TOLERANCE = 1e-6
"""A value this far below `correct_reward` still counts as correct, because sums of floats are rarely exact."""
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Rewards of N completions.

    `rewards_N` is the weighted sum over functions, leaving out those that do not apply; `by_function` has each
    function's own, unweighted values [N], NaN where it does not apply. `correct_N` is the verdict function's alone.
    `timeouts` counts completions that took `math` too long, `errors` those that killed a worker or for which a
    function returned no finite number.
    """

    rewards_N: FloatArray
    by_function: dict[str, FloatArray]
    correct_N: BoolArray
    timeouts: int
    errors: int


class Judge:
    """Scores completions; a context manager that stops its workers on exit."""

    def __init__(self, config: RewardConfig) -> None:
        """Look up all functions, so that a wrong name fails before any work is done.

        Raises:
            UsageError: an unknown name, or a path that does not import.
        """
        self._functions: dict[str, RewardFunction | None] = {
            name: None if name == MATH else find(name) for name in config.functions
        }
        if len(self._functions) < len(config.functions):
            raise UsageError(
                f"rewards.functions names a function twice: {', '.join(config.functions)}; name each once, and set its "
                "weight in rewards.weights"
            )
        self._weights = config.weights or [1.0] * len(config.functions)
        self._verdict, self._correct_reward = config.verdict_function, config.correct_reward
        self._pool = WorkerPool(config.workers or min(MAX_WORKERS, cores()), config.timeout_s)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> Scores:
        """Scores of N completions; `columns` are passed to the functions, one entry for each completion.

        Raises:
            UsageError: the `answer` column is missing, or a function returns the wrong number of values;
            RunError: a function fails.
        """
        if not completions:
            return Scores(np.zeros(0), {name: np.zeros(0) for name in self._functions}, np.zeros(0, np.bool_), 0, 0)
        counts = {"timeout": 0, "error": 0}
        by_function = {
            name: self._math(completions, _answers(columns), counts)
            if function is None
            else _call(name, function, prompts, completions, columns, counts)
            for name, function in self._functions.items()
        }
        total_N = np.zeros(len(completions))
        for weight, values_N in zip(self._weights, by_function.values(), strict=True):
            total_N += weight * np.where(np.isnan(values_N), 0.0, values_N)
        correct_N = by_function[self._verdict] >= self._correct_reward - TOLERANCE  # NaN, not applicable: not correct
        return Scores(total_N, by_function, correct_N, counts["timeout"], counts["error"])

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _math(self, completions: Sequence[str], answers: Sequence[Any], counts: dict[str, int]) -> FloatArray:
        values_N = np.zeros(len(completions))
        positions: dict[Job, list[int]] = {}  # rollouts of a prompt often give the same answer, which is checked once
        for i, (completion, answer) in enumerate(zip(completions, answers, strict=True)):
            golds = alternatives(answer)
            prepared = prepare(golds, completion) if golds else float("nan")
            if isinstance(prepared, Job):
                positions.setdefault(prepared, []).append(i)
            else:
                values_N[i] = prepared
        outcomes = self._pool.run(list(positions)) if positions else []
        for outcome, indices in zip(outcomes, positions.values(), strict=True):
            values_N[indices] = outcome == "right"
            if outcome in counts:
                counts[outcome] += len(indices)
        return values_N


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; None where a row has no such field."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _answers(columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if "answer" not in columns:
        raise UsageError(
            f"reward '{MATH}' needs gold answers, but the dataset has none; choose their column with --answer-column"
        )
    return columns["answer"]


def _call(
    name: str,
    function: RewardFunction,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    counts: dict[str, int],
) -> FloatArray:
    extra = {key: list(values) for key, values in columns.items() if key not in ("prompts", "completions")}
    try:
        values = list(function(list(prompts), list(completions), **extra))
        numbers_N = np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    except Exception as error:  # the user's own code may raise anything
        raise RunError(f"reward '{name}' failed: {type(error).__name__}: {error}") from error
    if len(numbers_N) != len(completions):
        raise UsageError(
            f"reward '{name}' returned {len(numbers_N)} values for {len(completions)} completions; return one each"
        )
    broken_N = ~np.isfinite(numbers_N)
    counts["error"] += int(broken_N.sum()) - sum(value is None for value in values)
    return np.where(broken_N, np.nan, numbers_N)
