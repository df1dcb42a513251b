"""pass@k, avg@k, maj@k and their intervals, as pure functions.

Axis letters: P prompts, K samples per prompt. avg@k is the mean over k samples; pass@k is the unbiased closed form
1 - C(n-c, k) / C(n, k) of Codex (2107.03374) for c correct of n samples; maj@k follows self-consistency (2203.11171),
with ties counted by their expected value instead of broken at random.

Intervals are over prompts, by the bootstrap. The k samples of a prompt are no independent evidence of the others, so
where all prompts have the same value, and the bootstrap finds no spread, the interval is Wilson's of that many prompts,
not of that many samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from strategies.types import derive_seed

FloatArray = npt.NDArray[np.float64]
DRAWS_AT_ONCE = 2**22
EQUAL = 1e-12
"""Values that differ by no more are equal up to rounding."""
RATES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""Bounds of a rate, and of the difference of two."""


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    value: float
    low: float
    high: float


def interval_text(interval: Mapping[str, float] | None, form: str = ".3f") -> str:
    """An interval, as `_asdict` gives it, for a person to read; empty if there is none.

    >>> interval_text(Interval(0.25, 0.125, 0.5)._asdict(), "+.3f")
    '+0.250 [+0.125, +0.500]'
    """
    if interval is None:
        return ""
    return f"{interval['value']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> FloatArray:
    """Probability that k of n samples, drawn without replacement, include one of the c correct ones.

    `n` and `c` are integers or arrays that broadcast; the result has their shape.

    >>> pass_at_k(4, [0, 1, 2, 4], 2).round(3).tolist()
    [0.0, 0.5, 0.833, 1.0]

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    n_P, c_P = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))
    if k < 1 or np.any(k > n_P) or np.any(c_P < 0) or np.any(c_P > n_P):
        raise ValueError(f"pass@{k} needs 1 <= k <= n and 0 <= c <= n")
    certain_P = n_P - c_P < k
    wrong_P = np.where(certain_P, 0, c_P)
    # The product of 1 - c / (n - j), in logarithms: no factorials, and no loss of precision where c is small beside n.
    log_miss_P = np.zeros(n_P.shape)
    for j in range(k):
        log_miss_P += np.log1p(-wrong_P / (n_P - j))
    return np.asarray(np.where(certain_P, 1.0, 0.0 - np.expm1(log_miss_P)), dtype=np.float64)


def avg_at_k(correct_PK: npt.ArrayLike) -> FloatArray:
    """Mean over the samples of each prompt, [P].

    >>> avg_at_k([[True, False, False, True], [False, False, False, False]]).tolist()
    [0.5, 0.0]
    """
    return np.asarray(np.mean(np.asarray(correct_PK, dtype=np.float64), axis=-1), dtype=np.float64)


def maj_at_k(answers_PK: Sequence[Sequence[str | None]], correct_PK: npt.ArrayLike) -> FloatArray:
    """Accuracy of each prompt's most frequent answer, [P].

    Answers vote by their text; None does not vote, and a prompt without votes scores 0. Where answers tie, the mean of
    their accuracies counts; so does the mean where equal texts were judged differently (one of them timed out).

    >>> maj_at_k([["12", "12", "7"], ["3", "4", None]], [[True, True, False], [True, False, False]]).tolist()
    [1.0, 0.5]
    """
    flags_PK = np.asarray(correct_PK, dtype=np.float64)
    return np.array(
        [_majority(answers, flags) for answers, flags in zip(answers_PK, flags_PK, strict=True)], dtype=np.float64
    )


def wilson(correct: npt.ArrayLike, total: npt.ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end of the Wilson score interval of `correct` out of `total`, element by element.

    >>> low, high = wilson([0, 4, 8], 8)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.215, 0.676], [0.324, 0.785, 1.0])

    Raises:
        ValueError: unless 0 <= correct <= total and total >= 1.
    """
    c, n = np.broadcast_arrays(np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64))
    if np.any(c < 0) or np.any(c > n) or np.any(n < 1):
        raise ValueError("an interval of a share needs 0 <= correct <= total and total >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center = (c + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(c * (n - c) / n + z * z / 4)
    # Rounding would leave the ends of 0 and of n correct a hair beyond 0 and 1.
    return np.where(c == 0, 0.0, center - half), np.where(c == n, 1.0, center + half)


def bootstrap_interval(
    values_P: npt.ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over prompts with its percentile bootstrap interval.

    Resampling P prompts with replacement comes down to drawing how often each distinct value occurs: one multinomial
    per resample, over the few values that k samples can give, however large P is.

    >>> interval = bootstrap_interval([0.0, 0.25, 0.5, 1.0])
    >>> interval.value, interval.low < interval.value < interval.high
    (0.4375, True)

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    values = np.asarray(values_P, dtype=np.float64).ravel()
    if not len(values) or not np.isfinite(values).all() or not 0 < confidence < 1:
        raise ValueError("a bootstrap needs finite values and a confidence between 0 and 1")
    distinct_U, counts_U = np.unique(values, return_counts=True)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    at_once = max(1, DRAWS_AT_ONCE // len(distinct_U))
    means_R = np.empty(resamples)
    for start in range(0, resamples, at_once):
        stop = min(start + at_once, resamples)
        draws_RU = rng.multinomial(len(values), counts_U / len(values), size=stop - start)
        means_R[start:stop] = draws_RU @ distinct_U / len(values)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_R, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def equal_interval(
    value: float, prompts: int, confidence: float = 0.95, bounds: tuple[float, float] = RATES
) -> Interval:
    """Interval of a mean over prompts that all have the same value, which leaves a bootstrap no spread to resample.

    With none of `prompts` different, at most a share u of all prompts is, where u is the upper end of the Wilson
    interval of 0 out of `prompts`; these may lie anywhere within the bounds. Where all or none are right, that is the
    Wilson interval itself.

    >>> Interval(*(round(end, 3) for end in equal_interval(0.0, 80)))
    Interval(value=0.0, low=0.0, high=0.046)
    """
    share = float(wilson(0, prompts, confidence)[1])
    lowest, highest = bounds
    return Interval(value, value + share * (lowest - value), value + share * (highest - value))


def mean_interval(
    values_P: npt.ArrayLike,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    bounds: tuple[float, float] = RATES,
) -> Interval:
    """Mean over prompts of values within bounds, with its interval: by the bootstrap, or `equal_interval`.

    >>> interval = mean_interval([0.0, 0.25, 0.5, 1.0])
    >>> interval.value, interval.low < interval.value < interval.high
    (0.4375, True)

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    values = np.asarray(values_P, dtype=np.float64).ravel()
    if len(values) and np.ptp(values) <= EQUAL:
        return equal_interval(float(values[0]), len(values), confidence, bounds)
    return bootstrap_interval(values, confidence, resamples, seed)


def mean_of_intervals(intervals: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent estimates, such as of several benchmarks, with its interval.

    The distances of each estimate to its ends add up in quadrature (MOVER, Zou and Donner 2008), so that ends which lie
    unevenly around their estimate, as Wilson's do, stay uneven.

    >>> mean_of_intervals([Interval(0.5, 0.25, 0.5), Interval(1.0, 1.0, 1.0)])
    Interval(value=0.75, low=0.625, high=0.75)
    """
    value_D, low_D, high_D = np.array(intervals).T
    mean, below, above = value_D.mean(), np.linalg.norm(value_D - low_D), np.linalg.norm(high_D - value_D)
    return Interval(float(mean), float(mean - below / len(intervals)), float(mean + above / len(intervals)))


def paired_difference(
    before_P: npt.ArrayLike,
    after_P: npt.ArrayLike,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of the rates after minus those before, over the same prompts, with its interval as `mean_interval` gives it.

    >>> paired_difference([0.25, 0.5, 0.0, 0.75], [0.5, 0.75, 0.25, 0.75]).value
    0.1875

    Raises:
        ValueError: the two have different lengths.
    """
    before, after = np.asarray(before_P, dtype=np.float64), np.asarray(after_P, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"{before.shape} values before, {after.shape} after: they must be for the same prompts")
    return mean_interval(after - before, confidence, resamples, seed, DIFFERENCES)


def _majority(answers_K: Sequence[str | None], correct_K: FloatArray) -> float:
    votes: dict[str, list[float]] = {}
    for answer, correct in zip(answers_K, correct_K, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(float(correct))
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    winners = [sum(flags) / len(flags) for flags in votes.values() if len(flags) == most]
    return sum(winners) / len(winners)
