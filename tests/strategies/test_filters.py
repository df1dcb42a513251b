"""The filters of whole groups, and the records they look at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.base import RolloutFilter
from strategies.registry import create
from strategies.types import StepContext
from tests.fakes import FakeRun, make_group, make_prompts, make_run

CTX = StepContext(0, 10, 0, 0, 7)
PROMPT = make_prompts(1)[0]
rewards = st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=1, max_size=16)


def filter_(name: str) -> RolloutFilter:
    built = create("filter", name, make_run())
    assert isinstance(built, RolloutFilter)
    return built


@given(rewards)
def test_nonzero_variance_keeps_all_or_nothing(rewards_N: list[float]) -> None:
    group = make_group(PROMPT, rewards_N)
    mask_N = filter_("nonzero-variance").keep(group, CTX)
    assert mask_N.tolist() == [len(set(rewards_N)) > 1] * len(rewards_N)
    # 0.1 three times has a standard deviation that is not exactly 0 in floating point
    assert group.zero_variance == (len(set(rewards_N)) == 1)


@given(rewards)
def test_keep_all_keeps_all(rewards_N: list[float]) -> None:
    assert filter_("keep-all").keep(make_group(PROMPT, rewards_N), CTX).all()


def test_only_nonzero_variance_refills() -> None:
    assert filter_("nonzero-variance").refills
    assert not filter_("keep-all").refills


def test_refilling_trains_on_no_group_without_advantage() -> None:
    refilled, plain = (FakeRun({"filter": name}).steps(5) for name in ("nonzero-variance", "keep-all"))
    assert sum(len(record.asked) for record in refilled) > len(refilled)
    for record in refilled:
        assert record.batch is not None
        for number in np.unique(record.batch.group_N):
            assert len(set(record.batch.rewards_N[record.batch.group_N == number])) > 1
    assert all(len(record.asked) == 1 for record in plain)
    assert any(group.zero_variance for record in plain for group in record.groups)


def test_group_counts_the_correct() -> None:
    group = make_group(PROMPT, [1.0, 0.1, 1.0])
    assert group.num_correct == 2
    assert group.rewards_N.tolist() == [1.0, 0.1, 1.0]
    assert group.rewards_N.dtype == np.float64


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 11))
def test_uniform_budget_differs_by_at_most_one(prompts: int, each: int, over: int) -> None:
    budget = create("budget", "uniform", make_run())
    total = prompts * each + over % prompts
    counts = budget.allocate(make_prompts(prompts), total, CTX)
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("value", [0.6, 1.0])
def test_constant_temperature(value: float) -> None:
    schedule = create("temperature_schedule", f"constant:value={value}", make_run())
    assert [schedule.temperature(StepContext(step, 10, 0, 0, 7)) for step in (0, 9)] == [value, value]
    with pytest.raises(ValueError, match="value=0"):
        create("temperature_schedule", "constant:value=0", make_run())
