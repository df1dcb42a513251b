"""Means and deviations by reward function, as TRL logs them."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.rewards.judge import Scores
from prepo_cli.rewards.metrics import reward_metrics


def one_call(by_function: dict[str, list[float]], errors: int = 0, timeouts: int = 0) -> Scores:
    arrays = {name: np.array(values) for name, values in by_function.items()}
    size = len(next(iter(arrays.values())))
    return Scores(np.zeros(size), arrays, np.zeros(size, np.bool_), timeouts, errors)


def test_golden() -> None:
    calls = [
        one_call({"math": [1, 0], "my:short": [math.nan, 0.2]}, 1),
        one_call({"math": [1], "my:short": [0.4]}, 2, 2),
    ]
    assert reward_metrics(calls) == pytest.approx(
        {
            "rewards/math/mean": 2 / 3,
            "rewards/math/std": (1 / 3) ** 0.5,
            "rewards/my:short/mean": 0.3,
            "rewards/my:short/std": 0.02**0.5,
            "rewards/errors": 3,
            "rewards/timeouts": 2,
        }
    )


def test_what_is_undefined_is_left_out() -> None:
    metrics = reward_metrics([one_call({"one": [2.0, math.nan], "none": [math.nan, math.nan]})])
    assert metrics == {"rewards/one/mean": 2.0, "rewards/errors": 0, "rewards/timeouts": 0}
    assert reward_metrics([]) == {"rewards/errors": 0, "rewards/timeouts": 0}


@given(st.lists(st.lists(st.just(math.nan) | st.floats(-100, 100), max_size=5), min_size=1, max_size=4))
def test_against_the_standard_librarys_sample_deviation_over_all_calls(calls: list[list[float]]) -> None:
    metrics = reward_metrics([one_call({"f": values}) for values in calls])
    known = [value for values in calls for value in values if not math.isnan(value)]
    assert ("rewards/f/mean" in metrics) == (len(known) > 0)
    assert ("rewards/f/std" in metrics) == (len(known) > 1)
    if known:
        assert metrics["rewards/f/mean"] == pytest.approx(statistics.fmean(known), abs=1e-9)
    if len(known) > 1:
        assert metrics["rewards/f/std"] == pytest.approx(statistics.stdev(known), abs=1e-6)
