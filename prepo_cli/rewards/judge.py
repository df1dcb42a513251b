"""The judge: runs all reward functions over a list of completions and says which completions are correct.

`math` and the user's own functions run in worker processes, `exact` and `boxed` here. Correctness is decided by one
function (`RewardConfig.verdict_function`) on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import UsageError
from prepo_cli.machine import cores
from prepo_cli.rewards.answers import alternatives
from prepo_cli.rewards.checks import MathChecks
from prepo_cli.rewards.functions import MATH, find
from prepo_cli.rewards.messages import Prompt
from prepo_cli.rewards.own import Batch, OwnFunctions
from prepo_cli.rewards.pool import Lost, WorkerPool
from prepo_cli.rewards.verify import Job, prepare
from prepo_cli.rewards.worker import Role
from prepo_cli.sections import RewardConfig
from prepo_cli.terminal import say

MAX_WORKERS = 8
MATH_BYTES = 4 * 2**30
"""What a worker may allocate to check one answer."""
MANY = 8
"""Answers of a batch: if at least this many, and most of them, time out, that is reported."""
TOLERANCE = 1e-6
"""A value this far below `correct_reward` still counts as correct, because sums of floats are rarely exact."""
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Rewards of N completions.

    `rewards_N` is the weighted sum over functions, leaving out those that do not apply; `by_function` has each
    function's own, unweighted values [N], NaN where it does not apply. `correct_N` is the verdict function's alone.
    `timeouts` counts checks of completions that took too long, `errors` those that failed: with an exception, with the
    worker's death, or with a value that is not a number, or too large.
    """

    rewards_N: FloatArray
    by_function: dict[str, FloatArray]
    correct_N: BoolArray
    timeouts: int
    errors: int


class Judge:
    """Scores completions; a context manager that stops its workers on exit."""

    def __init__(self, config: RewardConfig) -> None:
        """Look up all functions and import the user's, so that a wrong name fails before any work is done.

        Raises:
            UsageError: an unknown name, or a path that does not import.
        """
        self._functions = {name: find(name) for name in config.functions}
        if len(self._functions) < len(config.functions):
            raise UsageError(
                f"rewards.functions lists a function twice: {', '.join(config.functions)}; list "
                "each once, and set its weight in rewards.weights"
            )
        self._weights = config.weights or [1.0] * len(config.functions)
        self._verdict, self._correct_reward = config.verdict_function, config.correct_reward
        self._timeout_s, self._told = config.timeout_s, False
        size = config.workers or min(MAX_WORKERS, cores())
        self._pool = WorkerPool(Role({}, MATH_BYTES), size, f"reward '{MATH}'")
        self._checks = MathChecks(self._pool, config.timeout_s)
        self._own = OwnFunctions(config, size) if any(":" in name for name in config.functions) else None

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]
    ) -> Scores:
        """Scores of N completions; `columns`, completion_ids among them, are passed on, an entry for each completion.

        Raises:
            UsageError: the `answer` column is missing, or a function returns the wrong number of values;
            RunError: a function fails and `rewards.on_error` is stop, or most of its calls take too long.
        """
        if not completions:
            return Scores(np.zeros(0), {name: np.zeros(0) for name in self._functions}, np.zeros(0, np.bool_), 0, 0)
        batch = Batch(prompts, completions, columns)
        by_function = {name: self._values(name, batch) for name in self._functions}
        total_N = np.zeros(len(completions))
        for weight, values_N in zip(self._weights, by_function.values(), strict=True):
            total_N += weight * np.where(np.isnan(values_N), 0.0, values_N)
        correct_N = by_function[self._verdict] >= self._correct_reward - TOLERANCE  # NaN, not applicable: not correct
        return Scores(total_N, by_function, correct_N, batch.timeouts, batch.errors)

    def begin(self, completion: str, answer: Any) -> None:
        """Begin to judge a completion that a later call will be asked for; of all functions, only `math` begins early.

        The user's own functions may compare completions, so they get all at once.
        """
        golds = alternatives(answer) if MATH in self._functions else ()
        job = prepare(golds, completion) if golds else False
        if isinstance(job, Job):
            self._checks.begin(job)

    @property
    def needs_answers(self) -> bool:
        """Whether a function requires gold answers: one that is built in, or names `answer` without a default."""
        own = {} if self._own is None else self._own.signatures
        return any(name not in own or "answer" in own[name].required for name in self._functions)

    def close(self) -> None:
        """Stop the workers."""
        self._checks.close()
        self._pool.close()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _values(self, name: str, batch: Batch) -> FloatArray:
        """One function's values [N], NaN where it does not apply."""
        function = self._functions[name]
        if function is not None:
            values = function(batch.prompts, batch.completions, answer=_answers(name, batch.columns))
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if name == MATH:
            return self._math(batch)
        assert self._own is not None
        return self._own(name, batch)

    def _math(self, batch: Batch) -> FloatArray:
        values_N = np.zeros(len(batch.completions))
        answers = _answers(MATH, batch.columns)
        positions: dict[Job, list[int]] = {}  # rollouts of a prompt often give the same answer, which is checked once
        for i, (completion, answer) in enumerate(zip(batch.completions, answers, strict=True)):
            golds = alternatives(answer)
            prepared = prepare(golds, completion) if golds else float("nan")
            if isinstance(prepared, Job):
                positions.setdefault(prepared, []).append(i)
            else:
                values_N[i] = prepared
        outcomes = self._checks.outcomes(positions)
        late = 0
        for job, indices in positions.items():
            outcome = outcomes[job]
            if isinstance(outcome, Lost):
                late += outcome.kind == "timeout"
                batch.count(outcome.kind, len(indices))
            else:
                values_N[indices] = outcome["values"][0]
        if late > len(positions) / 2 and late >= MANY and not self._told:
            self._told = True
            say(
                f"{late} of {len(positions)} distinct answers took longer than {self._timeout_s:g} s "
                "to check (rewards.timeout_s) and count as wrong, which slows the run down (shown "
                "once)"
            )
        return values_N


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; None where a row has no such field."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _answers(name: str, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if "answer" not in columns:
        raise UsageError(
            f"reward '{name}' needs gold answers, but the dataset has none; choose their column with --answer-column"
        )
    return columns["answer"]
