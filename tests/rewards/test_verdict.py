"""What counts as correct: the verdict of one reward function, whatever the others and the weights say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.rewards.judge import Judge, Scores
from prepo_cli.sections import RewardConfig

FIRST, SECOND, ALWAYS = (f"tests.rewards.graded:{name}" for name in ("first", "second", "always"))


def scored(completions: list[str], answers: list[str], config: RewardConfig, **columns: Any) -> Scores:
    with Judge(config) as judge:
        return judge(["q"] * len(completions), completions, {"answer": answers, **columns})


def test_a_second_function_that_is_always_1_makes_nothing_correct() -> None:
    config = RewardConfig(functions=["math", ALWAYS])
    scores = scored([r"\boxed{1}", r"\boxed{2}", ""], ["1"] * 3, config)
    np.testing.assert_array_equal(scores.rewards_N, [2, 1, 1])
    np.testing.assert_array_equal(scores.correct_N, [True, False, False])
    assert scores.correct_N.dtype == np.bool_


def test_weights_that_do_not_sum_to_1_make_nothing_wrong() -> None:
    config = RewardConfig(functions=["boxed", FIRST, SECOND], weights=[0.7, 0.2, 0.1])
    scores = scored([r"\boxed{1}", r"\boxed{2}"], ["1"] * 2, config, first=[1, 1], second=[1, 1])
    assert scores.rewards_N[0] == 0.7 + 0.2 + 0.1 < 1
    np.testing.assert_array_equal(scores.correct_N, [True, False])


values = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])
weights = st.floats(-1e3, 1e3)


@pytest.fixture(scope="module")
def judges() -> Iterator[list[Judge]]:
    """One for each set and order of functions, since each has processes of its own."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Judge(RewardConfig(functions=functions, verdict=FIRST, on_error="skip", workers=1)))
            for functions in ([FIRST, SECOND], [SECOND, FIRST], [FIRST])
        ]


@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=6),
    st.tuples(weights, weights),
    st.sampled_from([0, 1, 2]),
    st.floats(-10, 10),
)
def test_only_the_verdict_function_decides(
    judges: list[Judge],
    rows: list[tuple[float | None, float | None]],
    weights: tuple[float, float],
    which: int,
    correct_reward: float,
) -> None:
    own = [row[0] for row in rows]
    judge = judges[which]
    judge._weights, judge._correct_reward = list(weights)[: len(judge._functions)], correct_reward
    columns = {"first": own, "second": [row[1] for row in rows]}
    scores = judge(["q"] * len(rows), ["c"] * len(rows), columns)
    naive = [v is not None and math.isfinite(v) and v >= correct_reward - 1e-6 for v in own]
    assert scores.correct_N.tolist() == naive


def test_correct_reward_is_on_the_verdict_functions_own_scale() -> None:
    config = RewardConfig(functions=[FIRST, "boxed"], weights=[0.1, 1.0], verdict=FIRST, correct_reward=5.0)
    grades = [5.0, 4.9999995, 4.99, None]
    scores = scored([r"\boxed{1}"] * 4, ["1"] * 4, config, first=grades)
    assert scores.correct_N.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("functions", "verdict", "decides"),
    [
        (["math"], None, "math"),
        (["a:f", "math"], None, "math"),
        (["boxed", "a:f", "exact"], None, "exact"),
        (["a:f", "boxed"], None, "boxed"),
        (["a:f", "b:g"], None, "a:f"),
        (["math", "a:f"], "a:f", "a:f"),
    ],
)
def test_which_function_decides(functions: list[str], verdict: str | None, decides: str) -> None:
    assert RewardConfig(functions=functions, verdict=verdict).verdict_function == decides


def test_an_unknown_verdict_is_refused_with_the_names_of_the_functions() -> None:
    with pytest.raises(UsageError) as error:
        resolve(sets=["rewards.functions=[math, 'a:f']", "rewards.verdict=mth"])
    assert str(error.value) == (
        "rewards.verdict=mth is not one of the reward functions: math, a:f; choose one of these, or add it to "
        "rewards.functions with weight 0"
    )
    with pytest.raises(ValidationError):
        RewardConfig(functions=["exact"], verdict="math")
