"""What counts as correct: the verdict of one reward function, whatever the others and the weights say."""

from __future__ import annotations

import math
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

FIRST, SECOND = f"{__name__}:first", f"{__name__}:second"


def first(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """The values of the column 'first'."""
    return list(columns["first"])


def second(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """The values of the column 'second'."""
    return list(columns["second"])


def always(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1, as a reward for short answers often is."""
    return [1.0] * len(completions)


def scored(completions: list[str], answers: list[str], config: RewardConfig, **columns: Any) -> Scores:
    with Judge(config) as judge:
        return judge(["q"] * len(completions), completions, {"answer": answers, **columns})


def test_a_second_function_that_is_always_1_makes_nothing_correct() -> None:
    config = RewardConfig(functions=["math", f"{__name__}:always"])
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


@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=6),
    st.tuples(weights, weights),
    st.sampled_from([(FIRST, SECOND), (SECOND, FIRST)]),
    st.floats(-10, 10),
)
def test_only_the_verdict_function_decides(
    rows: list[tuple[float | None, float | None]],
    weights: tuple[float, float],
    functions: tuple[str, str],
    correct_reward: float,
) -> None:
    own = [row[0] for row in rows]
    columns = {"first": own, "second": [row[1] for row in rows]}
    config = RewardConfig(
        functions=list(functions), weights=list(weights), verdict=FIRST, correct_reward=correct_reward
    )
    scores = scored(["c"] * len(rows), ["a"] * len(rows), config, **columns)
    naive = [v is not None and math.isfinite(v) and v >= correct_reward - 1e-6 for v in own]
    assert scores.correct_N.tolist() == naive
    alone = RewardConfig(functions=[FIRST], correct_reward=correct_reward)
    assert scored(["c"] * len(rows), ["a"] * len(rows), alone, **columns).correct_N.tolist() == naive


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
