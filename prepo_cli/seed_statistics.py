"""Statistics over seeds and prompts: crossed bootstrap, accuracy over cost, tests over seeds and their power.

Axis letters: S seeds, P prompts, E evaluations, R the observed sample followed by its resamples. Row 0 of every array
with R is what was observed, so that one function serves the estimate and its interval.

The bootstrap is crossed, since the same prompts are answered under every seed: seeds and prompts are resampled
independently of each other (the "pigeonhole" bootstrap of Owen, 0712.1111). It counts the noise of single answers up
to three times, which makes intervals somewhat too wide, and takes few seeds at face value, which makes them too narrow;
with 5 seeds, 200 prompts and 8 samples each, intervals of 95% cover the truth in 96 to 99% of simulated studies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from prepo_cli.statistics import FloatArray, Interval
from strategies.types import derive_seed

RESAMPLES = 10_000
DRAWS_AT_ONCE = 2**17
"""As many as fit in the processor's cache."""
CLOSE = 1e-12
"""Accuracies that differ by less are equal up to rounding."""


def seed_weights(names: Sequence[object], resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Each seed's share of the sample and of its resamples, [R, S]; rows sum to 1.

    The draws depend on the names: recipes with the same seeds are resampled together, others independently.

    >>> weights_RS = seed_weights([0, 1, 2], resamples=2)
    >>> weights_RS.shape, weights_RS[0].tolist() == [1 / 3] * 3
    ((3, 3), True)
    """
    rng = np.random.default_rng(derive_seed(seed, "seeds", *names))
    counts_RS = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(names)), counts_RS]) / len(names)


def resampled_curves(values_SEP: FloatArray, weights_RS: FloatArray, seed: int = 0) -> FloatArray:
    """Mean accuracy at each evaluation, of the sample and of its resamples over seeds and prompts, [R, E].

    The draws of prompts depend on their number and `seed` alone, so that recipes share them.

    Raises:
        ValueError: no prompts, or a value that is not finite.
    """
    seeds, evaluations, prompts = values_SEP.shape
    if not prompts or not np.isfinite(values_SEP).all():
        raise ValueError("a bootstrap needs finite values")
    values_PX = values_SEP.transpose(2, 0, 1).reshape(prompts, seeds * evaluations)
    curves_RE = np.empty((len(weights_RS), evaluations))
    curves_RE[0] = np.einsum("s,sep->e", weights_RS[0], values_SEP) / prompts
    rng = np.random.default_rng(derive_seed(seed, "prompts", prompts))
    at_once = max(1, DRAWS_AT_ONCE // max(prompts, seeds * evaluations))
    for start in range(1, len(weights_RS), at_once):
        rows = slice(start, min(start + at_once, len(weights_RS)))
        count = rows.stop - rows.start
        drawn_RP = rng.integers(prompts, size=(count, prompts)) + prompts * np.arange(count)[:, None]
        counts_RP = np.bincount(drawn_RP.ravel(), minlength=count * prompts).reshape(count, prompts)
        means_RSE = (counts_RP @ values_PX).reshape(-1, seeds, evaluations) / prompts
        curves_RE[rows] = np.einsum("rs,rse->re", weights_RS[rows], means_RSE)
    return curves_RE


def interval(values_R: FloatArray, confidence: float = 0.95) -> Interval:
    """The observed value with its percentile interval.

    >>> interval(np.array([0.5, 0.25, 0.5, 0.75]), confidence=0.5)
    Interval(value=0.5, low=0.375, high=0.625)
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_R[1:], [tail, 1 - tail])
    return Interval(float(values_R[0]), float(low), float(high))


def probability_positive(values_R: FloatArray) -> float:
    """The share of resamples above zero; those at zero count half.

    >>> probability_positive(np.array([0.1, 0.2, 0.0, -0.1, 0.3]))
    0.625
    """
    return float(np.mean((values_R[1:] > CLOSE) + 0.5 * (np.abs(values_R[1:]) <= CLOSE)))


def mean_over_cost(accuracy_RE: FloatArray, cost_RE: FloatArray, low: float, high: float) -> FloatArray:
    """Area under accuracy over cost between two costs, by trapezoids, divided by their distance, [R].

    >>> mean_over_cost(np.array([[0.0, 1.0, 1.0]]), np.array([[0.0, 2.0, 4.0]]), 1.0, 4.0).round(4).tolist()
    [0.9167]

    Raises:
        ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"no area between {low} and {high}")
    left_RE, right_RE = np.clip(cost_RE[:, :-1], low, high), np.clip(cost_RE[:, 1:], low, high)
    length_RE = cost_RE[:, 1:] - cost_RE[:, :-1]
    share_RE = np.zeros_like(length_RE)
    np.divide((left_RE + right_RE) / 2 - cost_RE[:, :-1], length_RE, out=share_RE, where=length_RE > 0)
    middle_RE = accuracy_RE[:, :-1] + share_RE * (accuracy_RE[:, 1:] - accuracy_RE[:, :-1])
    return np.asarray((middle_RE * (right_RE - left_RE)).sum(axis=1) / (high - low), dtype=np.float64)


def isotonic(values_RE: FloatArray) -> FloatArray:
    """The nearest rows that never fall, by least squares.

    >>> isotonic(np.array([[0.5, 0.75, 0.25, 1.0]])).tolist()
    [[0.5, 0.5, 0.5, 1.0]]
    """
    return np.stack([optimize.isotonic_regression(values_E).x for values_E in values_RE])


def cost_to_reach(rising_RE: FloatArray, cost_RE: FloatArray, target_R: npt.ArrayLike) -> FloatArray:
    """Cost at which curves that never fall first reach the target, interpolated linearly; infinite if never, [R].

    >>> cost_to_reach(np.array([[0.5, 0.5, 0.75]]), np.array([[0.0, 10.0, 20.0]]), 0.625).tolist()
    [15.0]
    """
    target = np.broadcast_to(np.asarray(target_R, dtype=np.float64), len(rising_RE))
    reached_RE = rising_RE >= target[:, None] - CLOSE
    at_R, rows_R = reached_RE.argmax(axis=1), np.arange(len(rising_RE))
    before_R = np.maximum(at_R - 1, 0)
    low_R, high_R = rising_RE[rows_R, before_R], rising_RE[rows_R, at_R]
    share_R = np.ones(len(rising_RE))
    np.divide(target - low_R, high_R - low_R, out=share_R, where=high_R > low_R)
    start_R, end_R = cost_RE[rows_R, before_R], cost_RE[rows_R, at_R]
    cost_R = start_R + np.clip(share_R, 0, 1) * (end_R - start_R)
    return np.where(reached_RE[:, -1], cost_R, np.inf)


def cost_ratio(
    cost_R: FloatArray,
    spent_R: FloatArray,
    baseline_R: FloatArray,
    baseline_spent_R: FloatArray,
    confidence: float = 0.95,
) -> tuple[float | None, float, float | None, float]:
    """Ratio of the costs to reach a target, its interval's ends, and the share of resamples that reached it.

    A resample that never reached the target needs more than it spent: for the upper end its ratio is infinite, for the
    lower end it is what was spent. The same holds for the baseline, turned round. So the interval is never too narrow
    for want of training; the upper end is None where it is infinite, the value where it was not observed.

    >>> cost_R, spent_R = np.array([50.0, 40.0, 60.0, np.inf]), np.full(4, 100.0)
    >>> cost_ratio(cost_R, spent_R, spent_R, spent_R)
    (0.5, 0.4, None, 0.6666666666666666)
    """
    baseline_low_R = np.minimum(baseline_R, baseline_spent_R)
    low_R, high_R = np.zeros_like(cost_R), np.full_like(cost_R, np.inf)  # where the baseline needs nothing
    np.divide(np.minimum(cost_R, spent_R), baseline_R, out=low_R, where=baseline_R > 0)
    np.divide(cost_R, baseline_low_R, out=high_R, where=baseline_low_R > 0)
    tail = (1 - confidence) / 2
    # Observed resamples as ends: between a finite value and infinity there is nothing to interpolate.
    low = float(np.quantile(low_R[1:], tail, method="lower"))
    high = float(np.quantile(high_R[1:], 1 - tail, method="higher"))
    value = float(cost_R[0] / baseline_R[0]) if np.isfinite(cost_R[0]) and 0 < baseline_R[0] < np.inf else None
    return value, low, high if np.isfinite(high) else None, float(np.isfinite(cost_R[1:]).mean())


def difference_spread(values_S: FloatArray, baseline_S: FloatArray, paired: bool) -> float | None:
    """Sample standard deviation of one seed's difference; None with one seed on a side.

    Unpaired seeds differ by what two independent ones would.

    >>> difference_spread(np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 1.0]), paired=True)
    1.0
    """
    if min(len(values_S), len(baseline_S)) < 2:
        return None
    if paired:
        return float(np.std(values_S - baseline_S, ddof=1))
    return float(np.hypot(np.std(values_S, ddof=1), np.std(baseline_S, ddof=1)))


def seed_band(values_SE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of the t-interval of the mean over seeds at each evaluation, [E] each; the values with one seed.

    >>> [ends_E.round(3).tolist() for ends_E in seed_band(np.array([[0.5], [0.6], [0.7]]))]
    [[0.352], [0.848]]
    """
    seeds, mean_E = len(values_SE), values_SE.mean(axis=0)
    if seeds == 1:
        return mean_E, mean_E
    half_E = stats.t.isf(0.025, seeds - 1) * values_SE.std(axis=0, ddof=1) / seeds**0.5
    return mean_E - half_E, mean_E + half_E


def p_value(values_S: FloatArray, baseline_S: FloatArray, paired: bool) -> float | None:
    """Two-sided p-value of a t-test for equal means: of differences by seed, or Welch's where seeds are not paired.

    It covers what the seed changes (the order of prompts, sampling, the evaluation's own samples) on these prompts:
    another seed may fall otherwise, another test set is not considered. Valid from two seeds on, if with little power.
    None with one seed on a side, or where seeds change nothing.

    >>> round(p_value(np.array([0.62, 0.64, 0.63]), np.array([0.60, 0.61, 0.62]), paired=True), 4)
    0.0742
    """
    spread = difference_spread(values_S, baseline_S, paired)
    if spread is None or spread < CLOSE:
        return None
    if paired:
        return float(stats.ttest_rel(values_S, baseline_S).pvalue)
    return float(stats.ttest_ind(values_S, baseline_S, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values adjusted so that any false claim among them has at most the stated probability.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def seeds_needed(spread: float, difference: float = 0.01, level: float = 0.05, power: float = 0.8) -> int:
    """Number of paired seeds with which a two-sided t-test would show a difference with the given power.

    `spread` is the standard deviation of the differences by seed. Exact, by the noncentral t distribution.

    >>> seeds_needed(spread=0.01), seeds_needed(spread=0.02)
    (10, 34)
    """
    if spread < CLOSE:
        return 2
    effect = difference / spread
    # The normal test, which knows the spread, needs fewer.
    fewest = int(((stats.norm.isf(level / 2) + stats.norm.ppf(power)) / effect) ** 2)
    n = max(2, fewest)
    while _power(n, effect, level) < power:
        n += 1
    return n


def _power(n: int, effect: float, level: float) -> float:
    """Probability that a two-sided paired t-test of n pairs shows a difference of `effect` standard deviations."""
    bound, shift = stats.t.isf(level / 2, n - 1), effect * n**0.5
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift))
