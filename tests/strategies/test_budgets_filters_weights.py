"""Knapsack, pilot-commit, max-variance, high-entropy tokens and entropy share against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import registry
from strategies.budgets.knapsack import greedy, marginal
from strategies.budgets.pilot_commit import PilotCommit, proportional
from strategies.errors import StrategyError
from strategies.filters.max_variance import max_variance_subset
from strategies.types import Batch, StepContext
from strategies.weightings.entropy_share import group_relative_entropy
from strategies.weightings.high_entropy_tokens import top_tokens
from tests.fakes import make_group, make_prompts, make_run

CTX = StepContext(0, 20, 0, 0, 7)
RATES = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=4)


def value(p: float, n: int) -> float:
    return (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2


@settings(max_examples=40)
@given(RATES, st.integers(0, 6))
def test_greedy_is_optimal(p: list[float], extra: int) -> None:
    total = 2 * len(p) + extra
    counts = greedy(np.array(p), total, 2)
    assert sum(counts) == total
    assert min(counts) >= 2
    every = (c for c in itertools.product(range(2, 3 + extra), repeat=len(p)) if sum(c) == total)
    best = max(sum(value(q, n) for q, n in zip(p, c, strict=True)) for c in every)
    assert sum(value(q, n) for q, n in zip(p, counts, strict=True)) == pytest.approx(best)


@given(st.floats(0.0, 1.0), st.integers(2, 40))
def test_marginal_values_are_differences_and_fall(p: float, n: int) -> None:
    assert marginal(p, n) == pytest.approx(value(p, n + 1) - value(p, n), abs=1e-12)
    assert marginal(p, n + 1) <= marginal(p, n) + 1e-15


def test_knapsack_learns_from_history() -> None:
    budget = registry.create("budget", "knapsack", make_run())
    prompts = make_prompts(3)
    for prompt, rewards in zip(prompts, ([1] * 40, [0, 1] * 20, [0] * 40), strict=True):
        budget.observe([make_group(prompt, rewards)], CTX)
    counts = budget.allocate(prompts, 24, CTX)
    assert sum(counts) == 24
    assert counts[2] > counts[0]  # worth is p (1-p)^2: hard prompts before easy ones


@given(
    st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(1e-3, 1)), st.integers(0, 9)), min_size=1, max_size=12),
    st.integers(0, 60),
)
def test_proportional_shares(rows: list[tuple[float, int]], total: int) -> None:
    weights, room = (np.array(column) for column in zip(*rows, strict=True))
    given_ = proportional(weights, room, total)
    assert given_.sum() == min(total, int(room[weights > 0].sum()))
    assert (given_ >= 0).all()
    assert (given_ <= room).all()
    assert (given_[weights == 0] == 0).all()


def test_pilot_commit_spends_the_rest_where_pilots_disagree() -> None:
    budget = registry.create("budget", "pilot-commit", make_run())
    assert isinstance(budget, PilotCommit)
    prompts = make_prompts(4)
    assert budget.allocate(prompts, 32, CTX) == [4] * 4
    pilots = [[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    groups = [make_group(p, r) for p, r in zip(prompts, pilots, strict=True)]
    counts = budget.top_up(groups, 16, CTX)
    # Variances 1/4 and 3/16: 16 rollouts in the ratio 4 to 3.
    assert counts == [0, 9, 7, 0]
    flat = [make_group(p, [1, 1, 1, 1]) for p in prompts]
    assert budget.top_up(flat, 16, CTX) == [0] * 4


def test_pilots_of_equal_rewards_get_nothing_though_their_variance_is_not_zero() -> None:
    budget = registry.create("budget", "pilot-commit:pilots=6", make_run())
    groups = [make_group(p, [0.1] * 6) for p in make_prompts(4)]
    assert groups[0].rewards_N.var() > 0
    assert budget.top_up(groups, 8, CTX) == [0] * 4


@pytest.mark.parametrize(
    ("text", "generations", "reason"),
    [
        ("pilot-commit:pilots=8", 8, "8 pilots leave no rollouts of num_generations=8"),
        ("pilot-commit", 2, "2 pilots leave no rollouts of num_generations=2"),
        ("pilot-commit:maximum=4", 8, "maximum=4 leaves no room above 4 pilots"),
        ("knapsack:minimum=9", 8, "minimum=9 exceeds num_generations=8"),
    ],
)
def test_budgets_that_could_not_allot_anything_are_refused(text: str, generations: int, reason: str) -> None:
    with pytest.raises(StrategyError, match=reason):
        registry.create("budget", text, make_run(num_generations=generations))


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, -2.0, 3.5]), min_size=2, max_size=9), st.data())
def test_max_variance_equals_brute_force(rewards: list[float], data: st.DataObject) -> None:
    m = data.draw(st.integers(1, len(rewards)))
    mask = max_variance_subset(np.array(rewards), m)
    assert mask.sum() == m
    best = max(np.var(subset) for subset in itertools.combinations(rewards, m))
    assert np.var(np.array(rewards)[mask]) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "n", "kept"),
    [
        ("share=0.5", 8, 4),
        ("share=0.1", 8, 2),
        ("share=1", 3, 3),
        ("share=0.5", 2, 2),
        ("count=5", 8, 5),
        ("count=5", 3, 3),
    ],
)
def test_max_variance_keeps_the_share_or_count(params: str, n: int, kept: int) -> None:
    rollout_filter = registry.create("filter", f"max-variance:{params}", make_run())
    mask = rollout_filter.keep(make_group(make_prompts(1)[0], [i % 2 for i in range(n)]), CTX)
    assert mask.sum() == kept


def batch(entropies: list[list[float]], groups: list[int]) -> Batch:
    width = max(map(len, entropies))
    mask = np.array([[t < len(row) for t in range(width)] for row in entropies])
    entropy = np.array([row + [9.0] * (width - len(row)) for row in entropies])  # what is masked must not count
    n = len(entropies)
    return Batch(np.array(groups), np.zeros(n), np.zeros(n), entropy, mask)


ENTROPIES = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), min_size=1, max_size=7), min_size=1, max_size=6
)


@given(ENTROPIES, st.floats(0.05, 1.0))
def test_top_tokens_equal_a_naive_sort(entropies: list[list[float]], share: float) -> None:
    weights = top_tokens(batch(entropies, [0] * len(entropies)), share)
    flat = [(-h, i, t) for i, row in enumerate(entropies) for t, h in enumerate(row)]
    kept = {(i, t) for _, i, t in sorted(flat)[: math.ceil(share * len(flat) - 1e-9)]}
    assert {(int(i), int(t)) for i, t in zip(*np.nonzero(weights), strict=True)} == kept
    assert set(np.unique(weights)) <= {0.0, 1.0}


@given(ENTROPIES, st.data())
def test_entropy_shares_have_mean_one_in_every_group(entropies: list[list[float]], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(entropies), max_size=len(entropies)))
    weights = group_relative_entropy(batch(entropies, groups))
    for group in set(groups):
        members = [i for i, g in enumerate(groups) if g == group]
        means = [float(np.mean(entropies[i])) for i in members]
        overall = float(np.mean(means))
        expected = [m / overall if overall > 0 else 1.0 for m in means]
        np.testing.assert_allclose(weights[members], expected, rtol=1e-6)
