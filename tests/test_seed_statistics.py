"""Statistics over seeds and prompts against golden values, naive computations and their properties."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from prepo_cli.seed_statistics import (
    RESAMPLES,
    cost_ratio,
    cost_to_reach,
    difference_spread,
    holm,
    interval,
    isotonic,
    mean_over_cost,
    p_value,
    probability_positive,
    resampled_curves,
    seed_band,
    seed_weights,
    seeds_needed,
)
from prepo_cli.statistics import FloatArray, bootstrap_interval

PAIRS = list(product((0, 1), repeat=2))
ACCURACIES = st.floats(0, 1, width=32)


def rising(rows: int, columns: int) -> st.SearchStrategy[FloatArray]:
    return arrays(float, (rows, columns), elements=ACCURACIES).map(lambda a: np.sort(a, axis=1))


def costs(rows: int, columns: int) -> st.SearchStrategy[FloatArray]:
    steps = arrays(float, (rows, columns), elements=st.floats(0.5, 9, width=32))
    return steps.map(lambda a: np.cumsum(a, axis=1) - a[:, :1])


def naive_resamples(values_SP: FloatArray, resamples: int, seed: int) -> list[float]:
    """Draw seeds and prompts one by one, and take the mean over the drawn rows and columns."""
    rng = np.random.default_rng(seed)
    seeds, prompts = values_SP.shape
    means = []
    for _ in range(resamples):
        rows, columns = rng.integers(seeds, size=seeds), rng.integers(prompts, size=prompts)
        means.append(float(np.mean([[values_SP[i, j] for j in columns] for i in rows])))
    return means


def sample(seeds: int = 6, evaluations: int = 3, prompts: int = 15, spread: float = 0.1) -> FloatArray:
    rng = np.random.default_rng(seeds * 100 + prompts)
    base = rng.random((1, 1, prompts)) + spread * rng.normal(size=(seeds, 1, 1))
    return base + 0.1 * np.arange(evaluations)[:, None] + 0.05 * rng.normal(size=(seeds, evaluations, prompts))


def test_the_bootstrap_is_that_of_drawing_seeds_and_prompts() -> None:
    values_SEP = sample()
    curves_RE = resampled_curves(values_SEP, seed_weights(range(6), 20_000))
    for e in range(3):
        naive = naive_resamples(values_SEP[:, e], 3000, seed=e)
        found = interval(curves_RE[:, e])
        assert found.value == pytest.approx(values_SEP[:, e].mean(), abs=1e-12)
        assert np.std(curves_RE[1:, e]) == pytest.approx(np.std(naive), rel=0.06)
        assert found.low == pytest.approx(np.quantile(naive, 0.025), abs=0.015)
        assert found.high == pytest.approx(np.quantile(naive, 0.975), abs=0.015)


def test_the_bootstrap_against_every_possible_draw() -> None:
    """Two seeds and two prompts have sixteen equally likely draws."""
    values_SP = np.array([[0.0, 1.0], [4.0, 9.0]])
    every = [values_SP[np.ix_(rows, columns)].mean() for rows in PAIRS for columns in PAIRS]
    drawn = resampled_curves(values_SP[:, None], seed_weights("ab", 40_000))[1:, 0]
    for value in set(every):
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(np.mean(np.isclose(every, value)), abs=0.01)
    assert np.isin(drawn.round(9), np.round(every, 9)).all()


def test_with_one_seed_the_bootstrap_is_over_prompts() -> None:
    values_P = np.random.default_rng(0).integers(0, 9, 80) / 8
    found = interval(resampled_curves(values_P[None, None], seed_weights([0]))[:, 0])
    assert found == pytest.approx(bootstrap_interval(values_P), abs=0.005)


def test_the_same_seeds_and_prompts_are_resampled_together_and_others_are_not() -> None:
    a_SEP = sample()
    b_SEP = a_SEP + 0.25
    a_RE, b_RE = (resampled_curves(v, seed_weights(range(6), 500)) for v in (a_SEP, b_SEP))
    np.testing.assert_allclose(b_RE - a_RE, 0.25)
    other_RE = resampled_curves(b_SEP, seed_weights(range(6, 12), 500))
    assert np.ptp(other_RE - a_RE) > 0.05


def test_prompts_cancel_in_a_difference_also_where_seeds_do_not() -> None:
    prompts_P = np.random.default_rng(1).random(50)
    a_R, b_R = (
        resampled_curves(np.tile(prompts_P, (3, 1, 1)) + shift, seed_weights(names, 400))[:, 0]
        for names, shift in (((0, 1, 2), 0.0), ((3, 4, 5), 0.125))
    )
    np.testing.assert_allclose(b_R - a_R, 0.125)


def test_resampling_is_reproducible_and_its_seed_matters() -> None:
    values_SEP = sample()
    one, again, other = (resampled_curves(values_SEP, seed_weights(range(6), 50, s), s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one[1:] != other[1:]).any()
    np.testing.assert_array_equal(one[0], other[0])


def test_resampling_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values_SEP, weights_RS = sample(), seed_weights(range(6), 100)
    whole = resampled_curves(values_SEP, weights_RS)
    monkeypatch.setattr("prepo_cli.seed_statistics.DRAWS_AT_ONCE", 250)
    np.testing.assert_allclose(resampled_curves(values_SEP, weights_RS), whole, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(arrays(float, (3, 2, 4), elements=ACCURACIES))
def test_resampled_means_stay_within_the_values(values_SEP: FloatArray) -> None:
    curves_RE = resampled_curves(values_SEP, seed_weights(range(3), 100))
    assert (curves_RE >= values_SEP.min(axis=(0, 2)) - 1e-9).all()
    assert (curves_RE <= values_SEP.max(axis=(0, 2)) + 1e-9).all()


@pytest.mark.parametrize("values", [np.zeros((2, 1, 0)), np.full((2, 1, 3), np.nan)])
def test_the_bootstrap_refuses_nonsense(values: FloatArray) -> None:
    with pytest.raises(ValueError, match="finite values"):
        resampled_curves(values, seed_weights(range(2), 10))


def test_a_large_bootstrap_stays_small() -> None:
    values_SEP = np.random.default_rng(0).random((10, 20, 400))
    tracemalloc.start()
    curves_RE = resampled_curves(values_SEP, seed_weights(range(10)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert curves_RE.shape == (RESAMPLES + 1, 20)
    assert peak < 150e6


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_a_difference_cover_the_truth(seeds: int) -> None:
    """Two recipes of the same accuracy: answers, seeds and the prompts' own differences vary."""
    rng, hits = np.random.default_rng(seeds), 0
    for trial in range(100):
        rate_P = rng.beta(0.8, 0.6, 100)
        answers = rng.binomial(8, rate_P, (2, seeds, 100)) / 8 + rng.normal(0, 0.01, (2, seeds, 1))
        answers[0] += rng.normal(0, 0.05, 100)
        weights_RS = seed_weights(range(seeds), 300, trial)
        a_R, b_R = (resampled_curves(values[:, None], weights_RS, trial)[:, 0] for values in answers)
        found = interval(a_R - b_R)
        hits += found.low <= 0 <= found.high
    assert hits / 100 >= 0.90


@given(arrays(float, st.integers(2, 40), elements=st.floats(-1, 1)))
def test_probability_positive_counts_ties_half(values_R: FloatArray) -> None:
    above = [1.0 if value > 1e-12 else 0.5 if value >= -1e-12 else 0.0 for value in values_R[1:]]
    assert probability_positive(values_R) == pytest.approx(sum(above) / len(above))
    assert probability_positive(values_R) + probability_positive(-values_R) == pytest.approx(1)


@settings(deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=ACCURACIES))
def test_isotonic_is_the_largest_of_smallest_means(values_RE: FloatArray) -> None:
    """At t: the max over i <= t of the min over j >= t of the mean of i to j."""
    count = values_RE.shape[1]
    expected = [
        [max(min(row[i : j + 1].mean() for j in range(t, count)) for i in range(t + 1)) for t in range(count)]
        for row in values_RE
    ]
    np.testing.assert_allclose(isotonic(values_RE), expected, atol=1e-9)
    assert (np.diff(isotonic(values_RE), axis=1) >= 0).all()


@given(rising(2, 6))
def test_isotonic_leaves_what_never_falls(values_RE: FloatArray) -> None:
    np.testing.assert_allclose(isotonic(values_RE), values_RE, atol=1e-12)


def naive_cost(accuracy_E: FloatArray, cost_E: FloatArray, target: float) -> float:
    """Follow the curve in small steps of accuracy between neighboring evaluations."""
    if accuracy_E[0] >= target - 1e-12:
        return float(cost_E[0])
    for e in range(1, len(accuracy_E)):
        if accuracy_E[e] >= target - 1e-12:
            return float(np.interp(target, accuracy_E[e - 1 : e + 1], cost_E[e - 1 : e + 1]))
    return float("inf")


@given(rising(3, 6), costs(3, 6), arrays(float, 3, elements=ACCURACIES))
def test_cost_to_reach_equals_walking_along_the_curve(
    accuracy_RE: FloatArray, cost_RE: FloatArray, target_R: FloatArray
) -> None:
    found = cost_to_reach(accuracy_RE, cost_RE, target_R)
    expected = [naive_cost(*row) for row in zip(accuracy_RE, cost_RE, target_R, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(rising(1, 6), costs(1, 6), ACCURACIES, ACCURACIES)
def test_a_higher_target_never_costs_less(accuracy: FloatArray, cost: FloatArray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert cost_to_reach(accuracy, cost, low)[0] <= cost_to_reach(accuracy, cost, high)[0] + 1e-9


@pytest.mark.parametrize(
    ("target", "cost"), [(0.1, 0.0), (0.2, 0.0), (0.3, 5.0), (0.4, 10.0), (0.5, 25.0), (0.6, 30.0), (0.7, np.inf)]
)
def test_golden_costs(target: float, cost: float) -> None:
    accuracy, spent = np.array([[0.2, 0.4, 0.4, 0.6]]), np.array([[0.0, 10.0, 20.0, 30.0]])
    assert cost_to_reach(accuracy, spent, target)[0] == pytest.approx(cost)


@given(arrays(float, (2, 5), elements=ACCURACIES), costs(2, 5), st.floats(0, 0.45), st.floats(0.55, 1))
def test_the_area_is_that_of_quadrature(accuracy: FloatArray, cost: FloatArray, start: float, end: float) -> None:
    most = cost[:, -1].min()
    low, high = start * most, end * most
    found = mean_over_cost(accuracy, cost, low, high)
    for row, accuracy_E, cost_E in zip(found, accuracy, cost, strict=True):
        grid = np.unique(np.concatenate([[low, high], cost_E[(cost_E > low) & (cost_E < high)]]))
        area = integrate.trapezoid(np.interp(grid, cost_E, accuracy_E), grid)
        assert row == pytest.approx(area / (high - low), abs=1e-9)


def test_an_area_needs_a_range() -> None:
    with pytest.raises(ValueError, match="no area"):
        mean_over_cost(np.ones((1, 2)), np.array([[0.0, 1.0]]), 1.0, 1.0)


def test_a_golden_cost_ratio() -> None:
    cost_R = np.concatenate([[50.0], np.linspace(40, 60, 101)])
    spent_R = np.full(102, 100.0)
    assert cost_ratio(cost_R, spent_R, spent_R, spent_R, confidence=0.5) == (0.5, 0.45, 0.55, 1.0)


def test_the_ratio_of_a_recipe_to_itself_is_one() -> None:
    curve_RE = isotonic(resampled_curves(sample(), seed_weights(range(6), 300)))
    cost_RE = np.tile([0.0, 10.0, 20.0], (301, 1))
    cost_R = cost_to_reach(curve_RE, cost_RE, curve_RE[:, -1])
    assert cost_ratio(cost_R, cost_RE[:, -1], cost_R, cost_RE[:, -1]) == (1.0, 1.0, 1.0, 1.0)


def test_what_is_never_reached_is_bounded_by_what_was_spent() -> None:
    never, spent_R, baseline_R = np.full(1001, np.inf), np.full(1001, 120.0), np.full(1001, 80.0)
    assert cost_ratio(never, spent_R, baseline_R, spent_R) == (None, 1.5, None, 0.0)
    seldom = np.where(np.arange(1001) % 10 == 0, 100.0, np.inf)  # the observed sample among them
    assert cost_ratio(seldom, spent_R, baseline_R, spent_R) == (1.25, 1.25, None, 0.1)
    mostly = np.where(np.arange(1001) % 100 == 1, np.inf, 100.0)
    assert cost_ratio(mostly, spent_R, baseline_R, spent_R) == (1.25, 1.25, 1.25, 0.99)


def test_a_baseline_that_some_resamples_never_bring_there_widens_the_interval() -> None:
    cost_R, spent_R = np.full(1001, 60.0), np.full(1001, 120.0)
    baseline_R = np.where(np.arange(1001) % 10 == 1, np.inf, 100.0)
    value, low, high, reached = cost_ratio(cost_R, spent_R, baseline_R, spent_R)
    assert (value, low, high, reached) == (0.6, 0.0, 0.6, 1.0)
    assert cost_ratio(cost_R, spent_R, np.zeros(1001), spent_R) == (None, 0.0, None, 1.0)


def student(t: float, freedom: float) -> float:
    """Two-sided tail of Student's distribution, by integrating its density."""
    density = lambda x: (1 + x * x / freedom) ** (-(freedom + 1) / 2)  # noqa: E731
    whole = 2 * integrate.quad(density, 0, np.inf)[0]
    return float(2 * integrate.quad(density, abs(t), np.inf)[0] / whole)


SCORES = arrays(float, st.integers(2, 8), elements=st.floats(0, 1).map(lambda x: round(x, 3)))


@settings(deadline=None)
@given(SCORES, st.integers(0, 99))
def test_the_paired_test_is_students(a_S: FloatArray, seed: int) -> None:
    b_S = a_S + np.random.default_rng(seed).normal(0, 0.1, len(a_S))
    d_S, n = a_S - b_S, len(a_S)
    t = d_S.mean() / (np.sqrt(np.sum((d_S - d_S.mean()) ** 2) / (n - 1)) / np.sqrt(n))
    assert p_value(a_S, b_S, paired=True) == pytest.approx(student(t, n - 1), abs=1e-6)
    assert difference_spread(a_S, b_S, paired=True) == pytest.approx(np.sqrt(n) * abs(d_S.mean() / t), rel=1e-6)


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 99))
def test_the_unpaired_test_is_welchs(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_S, b_S = rng.normal(0, 1, n), rng.normal(0.5, 2, m)
    a, b = a_S.var(ddof=1) / n, b_S.var(ddof=1) / m
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    expected = student((a_S.mean() - b_S.mean()) / np.sqrt(a + b), freedom)
    assert p_value(a_S, b_S, paired=False) == pytest.approx(expected, abs=1e-6)
    assert difference_spread(a_S, b_S, paired=False) == pytest.approx(np.sqrt(a * n + b * m))


def test_a_golden_p_value() -> None:
    """The sleep data that Student's paper opens with: t = -4.0621 with 9 degrees of freedom."""
    one = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    other = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    assert p_value(one, other, paired=True) == pytest.approx(0.002833, abs=1e-6)
    assert p_value(one, other, paired=False) == pytest.approx(0.07939, abs=1e-5)


def test_one_seed_or_none_that_matters_claims_nothing() -> None:
    one, two = np.array([0.5]), np.array([0.5, 0.6])
    assert p_value(one, two, paired=False) is None
    assert difference_spread(one, one, paired=True) is None
    assert p_value(two, two + 0.1, paired=True) is None


def test_the_test_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    p_values = [p_value(rng.normal(size=4), rng.normal(size=4), paired=True) for _ in range(1000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.02)


@given(arrays(float, (4, 3), elements=ACCURACIES))
def test_the_band_is_the_t_interval(values_SE: FloatArray) -> None:
    low_E, high_E = seed_band(values_SE)
    for low, high, values in zip(low_E, high_E, values_SE.T, strict=True):
        error = np.sqrt(sum((v - sum(values) / 4) ** 2 for v in values) / 3 / 4)
        assert high - low == pytest.approx(2 * 3.182446 * error, abs=1e-6)
        assert (low + high) / 2 == pytest.approx(values.mean(), abs=1e-9)


def naive_holm(p_values: list[float]) -> list[float]:
    """The least level at which stepping down from the smallest rejects each."""
    m, adjusted = len(p_values), []
    for p in p_values:
        steps = [(m - sum(other < q for other in p_values)) * q for q in p_values if q <= p]
        adjusted.append(min(1.0, max(steps)))
    return adjusted


@given(st.lists(st.floats(0, 1), max_size=8, unique=True))
def test_holm_is_stepping_down(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(naive_holm(p_values))


@given(st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.2, 1.0]), max_size=8))
def test_holm_keeps_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def test_golden_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(("effect", "pairs"), [(2.0, 5), (1.0, 10), (0.8, 15), (0.5, 34), (0.3, 90), (0.2, 199)])
def test_seeds_needed_are_those_of_the_tables(effect: float, pairs: int) -> None:
    assert seeds_needed(spread=0.01 / effect) == pairs


@pytest.mark.parametrize("spread", [0.008, 0.02])
def test_seeds_needed_show_the_difference_in_simulated_studies(spread: float) -> None:
    n, rng = seeds_needed(spread), np.random.default_rng(1)
    for pairs, enough in ((n, True), (n - 2, False)):
        differences = rng.normal(0.01, spread, (20_000, pairs))
        power = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05)
        assert (power > 0.79) == enough


@given(st.floats(1e-4, 0.05), st.floats(1.01, 2))
@settings(max_examples=20, deadline=None)
def test_more_spread_needs_more_seeds(spread: float, factor: float) -> None:
    assert 2 <= seeds_needed(spread) <= seeds_needed(spread * factor)


def test_seeds_that_never_differ_are_enough_at_two() -> None:
    assert seeds_needed(0.0) == 2
