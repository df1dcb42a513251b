"""Group advantages against a golden value, a naive loop and their properties."""

from __future__ import annotations

import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.training.advantages import advantages

GROUPS = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8), min_size=1, max_size=6)


def test_golden() -> None:
    # (1, 0, 0, 0): mean 0.25, sample deviation 0.5.
    result = advantages(np.array([1.0, 0, 0, 0]), np.zeros(4, dtype=int))
    np.testing.assert_allclose(result, [1.499997, -0.499999, -0.499999, -0.499999], atol=1e-6)


@given(GROUPS)
def test_equals_a_naive_loop(groups: list[list[float]]) -> None:
    rewards = np.array([r for group in groups for r in group])
    numbers = np.array([i for i, group in enumerate(groups) for _ in group])
    expected = []
    for group in groups:
        mean = sum(group) / len(group)
        deviation = statistics.stdev(group) if len(group) > 1 else 0.0
        equal = len(set(group)) == 1
        expected += [0.0 if equal else (r - mean) / (deviation + 1e-6) for r in group]
    np.testing.assert_allclose(advantages(rewards, numbers), expected, rtol=1e-6, atol=1e-6)


@given(GROUPS, st.randoms())
def test_groups_may_stand_in_any_order(groups: list[list[float]], random: object) -> None:
    rewards = np.array([r for group in groups for r in group])
    numbers = np.array([i * 7 + 3 for i, group in enumerate(groups) for _ in group])
    order = np.random.default_rng(len(rewards)).permutation(len(rewards))
    straight, shuffled = advantages(rewards, numbers), advantages(rewards[order], numbers[order])
    np.testing.assert_allclose(straight[order], shuffled, rtol=1e-9, atol=1e-9)


def test_equal_rewards_have_no_advantage_even_where_the_mean_rounds() -> None:
    assert (advantages(np.full(3, 0.1), np.zeros(3, dtype=int)) == 0).all()


def test_other_scales() -> None:
    rewards, groups = np.array([1.0, 0, 1, 1]), np.array([0, 0, 1, 1])
    np.testing.assert_allclose(advantages(rewards, groups, "none"), [0.5, -0.5, 0, 0])
    np.testing.assert_allclose(advantages(rewards, groups, "batch"), np.array([0.5, -0.5, 0, 0]) / (0.5 + 1e-6))


def test_no_rollouts() -> None:
    assert advantages(np.zeros(0), np.zeros(0, dtype=int)).shape == (0,)
