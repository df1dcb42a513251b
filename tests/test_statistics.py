from __future__ import annotations

import tracemalloc
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from prepo_cli.statistics import (
    DIFFERENCES,
    Interval,
    avg_at_k,
    bootstrap_interval,
    equal_interval,
    maj_at_k,
    mean_interval,
    mean_of_intervals,
    paired_difference,
    pass_at_k,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [(2, 1, 1, 0.5), (4, 2, 2, 5 / 6), (16, 0, 16, 0.0), (16, 1, 16, 1.0), (16, 1, 4, 0.25), (5, 5, 1, 1.0)],
)
def test_pass_at_k_goldens(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-15)


counts = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, min(n, 200)))))
def test_pass_at_k_against_exact_fractions(case: tuple[int, int, int]) -> None:
    n, c, k = case
    exact = (comb(n, k) - comb(n - c, k)) / comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-11, abs=0)


@given(st.integers(2, 40), st.integers(1, 40), st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_pass_at_k_is_vectorised_and_monotone(n: int, k: int, right: list[int]) -> None:
    k, c_P = min(k, n - 1), np.minimum(right, n)
    value_P = pass_at_k(n, c_P, k)
    np.testing.assert_array_equal(value_P, [pass_at_k(n, int(c), k) for c in c_P])
    assert (value_P <= pass_at_k(n, c_P, k + 1) + 1e-12).all()
    np.testing.assert_allclose(pass_at_k(n, c_P, 1), c_P / n)


def test_pass_at_k_keeps_its_digits_in_large_numbers() -> None:
    assert pass_at_k(10**9, 1, 1) == pytest.approx(1e-9, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_nonsense(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)


def test_avg_at_k() -> None:
    np.testing.assert_array_equal(avg_at_k([[True, False], [True, True]]), [0.5, 1.0])


@pytest.mark.parametrize(
    ("answers", "correct", "value"),
    [
        (["3", "3", "4"], [1, 1, 0], 1.0),
        (["3", "4", "4"], [1, 0, 0], 0.0),
        (["3", "3", "4", "4"], [1, 1, 0, 0], 0.5),
        (["3", "4", "5"], [1, 0, 0], 1 / 3),
        ([None, None, "3"], [0, 0, 1], 1.0),
        ([None, None], [0, 1], 0.0),
        (["3", "3", "4"], [1, 0, 0], 0.5),
    ],
)
def test_maj_at_k_goldens(answers: list[str | None], correct: list[int], value: float) -> None:
    assert maj_at_k([answers], [correct])[0] == pytest.approx(value)


@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=7), st.sampled_from(["1", "2", "3"]))
def test_maj_at_k_is_the_mean_of_random_tie_breaks(answers: list[str | None], gold: str) -> None:
    votes = [answer for answer in answers if answer is not None]
    best = [answer for answer in set(votes) if votes.count(answer) == max(map(votes.count, votes))]
    expected = sum(answer == gold for answer in best) / len(best) if best else 0.0
    assert maj_at_k([answers], [[answer == gold for answer in answers]])[0] == pytest.approx(expected)


def test_bootstrap_is_that_of_drawing_prompts() -> None:
    """Against the plain method: draw row numbers, take means, take percentiles."""
    values_P = np.random.default_rng(0).integers(0, 17, 60) / 16
    rows = np.random.default_rng(1).integers(0, 60, (40_000, 60))
    low, high = np.quantile(values_P[rows].mean(axis=1), [0.05, 0.95])
    interval = bootstrap_interval(values_P, confidence=0.9, resamples=40_000, seed=3)
    assert interval.value == values_P.mean()
    assert interval.low == pytest.approx(low, abs=0.002)
    assert interval.high == pytest.approx(high, abs=0.002)


def test_bootstrap_against_every_possible_draw() -> None:
    """All 27 draws of three prompts are equally likely."""
    values = [0.0, 0.0, 1.0]
    means = sorted((a + b + c) / 3 for a in values for b in values for c in values)
    share_of_zero = sum(mean == 0 for mean in means) / 27
    assert bootstrap_interval(values, confidence=1 - 2 * (share_of_zero - 0.02)).low == 0
    assert bootstrap_interval(values, confidence=1 - 2 * (share_of_zero + 0.02)).low == pytest.approx(1 / 3)


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_bootstrap_properties(values: list[float], seed: int) -> None:
    interval = bootstrap_interval(values, resamples=200, seed=seed)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_interval(values[::-1], resamples=200, seed=seed)._replace(value=interval.value)
    wider = bootstrap_interval(values, confidence=0.99, resamples=200, seed=seed)
    assert wider.low <= interval.low
    assert wider.high >= interval.high


def test_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        interval = bootstrap_interval(rng.binomial(16, 0.4, 80) / 16, resamples=400, seed=trial)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_of_a_million_prompts_stays_small() -> None:
    values_P = np.random.default_rng(0).binomial(16, 0.3, 1_000_000) / 16
    tracemalloc.start()
    interval = bootstrap_interval(values_P)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values_P.std() / 1000, rel=0.05)


def test_bootstrap_of_many_distinct_values_works_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values_P = np.random.default_rng(0).normal(size=500)
    whole = bootstrap_interval(values_P, resamples=100)
    monkeypatch.setattr("prepo_cli.statistics.DRAWS_AT_ONCE", 1500)
    assert bootstrap_interval(values_P, resamples=100) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([np.nan], 0.95), ([1.0], 1.0), ([1.0], 0.0)])
def test_bootstrap_refuses_nonsense(values: list[float], confidence: float) -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap_interval(values, confidence)


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    before_P = np.random.default_rng(0).random(100)
    after_P = before_P + np.random.default_rng(1).normal(0.1, 0.02, 100)
    difference = paired_difference(before_P, after_P)
    assert difference.high - difference.low < 0.02
    assert bootstrap_interval(after_P).high - bootstrap_interval(after_P).low > 0.1
    mixed = paired_difference([0.0, 1.0, 0.5], [1.0, 1.0, 0.0])
    assert mixed.value == pytest.approx(1 / 6)
    assert mixed.low == pytest.approx(-0.5)
    assert mixed.high == pytest.approx(1.0)
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference([1.0], [1.0, 2.0])


@given(st.integers(1, 300), st.integers(1, 16), st.sampled_from([0.0, 1.0]), st.sampled_from([0.9, 0.95]))
def test_where_all_or_none_are_right_the_interval_is_wilsons_over_prompts(
    prompts: int, k: int, rate: float, confidence: float
) -> None:
    """k samples of a prompt count once, however many they are."""
    interval = mean_interval(avg_at_k(np.full((prompts, k), rate)), confidence)
    ends = binomtest(round(rate * prompts), prompts).proportion_ci(confidence, method="wilson")
    assert interval == pytest.approx((rate, ends.low, ends.high), abs=1e-12)


def test_goldens_of_0_and_of_all_of_80() -> None:
    assert mean_interval(np.zeros(80)) == pytest.approx((0, 0, 0.0458181), abs=1e-7)
    assert mean_interval(np.ones(80)) == pytest.approx((1, 0.9541819, 1), abs=1e-7)


@given(st.integers(1, 200), st.floats(-1, 1))
def test_equal_values_leave_room_for_prompts_that_differ(prompts: int, value: float) -> None:
    """Naively: mix the value with the worst and the best one, in the largest share that may well go unseen."""
    share = binomtest(0, prompts).proportion_ci(method="wilson").high
    interval = equal_interval(value, prompts, bounds=DIFFERENCES)
    assert interval.low == pytest.approx((1 - share) * value - share, abs=1e-12)
    assert interval.high == pytest.approx((1 - share) * value + share, abs=1e-12)
    unseen = (1 - share) ** prompts
    assert unseen < 0.21, "a larger share would have shown"


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(0, 3))
def test_other_values_have_the_bootstraps_interval(right: list[int], seed: int) -> None:
    rates_P = np.array(right) / 8
    interval = mean_interval(rates_P, resamples=200, seed=seed)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    if len(set(right)) > 1:
        assert interval == bootstrap_interval(rates_P, resamples=200, seed=seed)


def test_rounding_makes_no_spread() -> None:
    assert paired_difference([0.1, 0.2], [0.3, 0.4]) == pytest.approx(equal_interval(0.2, 2, bounds=DIFFERENCES))


def test_no_difference_on_few_prompts_is_no_certainty() -> None:
    assert paired_difference(np.zeros(80), np.zeros(80)) == pytest.approx((0, -0.0458181, 0.0458181), abs=1e-7)


def test_the_mean_of_benchmarks_has_the_interval_of_drawing_from_each() -> None:
    """Against the plain method: draw the prompts of every benchmark, and take the mean of their means."""
    rng = np.random.default_rng(0)
    rates = [rng.binomial(8, p, size) / 8 for p, size in ((0.2, 30), (0.5, 200), (0.8, 60))]
    drawn = [values[rng.integers(len(values), size=(20_000, len(values)))].mean(axis=1) for values in rates]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    mean = mean_of_intervals([mean_interval(values) for values in rates])
    assert mean.value == pytest.approx(np.mean([values.mean() for values in rates]))
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=0.004)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=6))
def test_the_mean_of_intervals_is_narrower_than_the_mean_of_their_ends(parts: list[tuple[float, float, float]]) -> None:
    intervals = [Interval(value, value - below, value + above) for value, below, above in parts]
    mean = mean_of_intervals(intervals)
    assert mean.value == pytest.approx(sum(i.value for i in intervals) / len(parts))
    assert mean.low >= sum(i.low for i in intervals) / len(parts) - 1e-9
    assert mean.high <= sum(i.high for i in intervals) / len(parts) + 1e-9
    if len(parts) == 1:
        assert mean == pytest.approx(intervals[0])
