"""Statistics of pass rates against scipy, enumeration and expanded samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from prepo_cli.evaluation.pass_rates import by_perplexity, distribution, share, zero_variance_share
from prepo_cli.statistics import mean_interval, wilson

COUNTS = st.lists(st.integers(0, 9), min_size=2, max_size=8).filter(lambda counts: sum(counts) > 0)


@given(st.integers(1, 200), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipys(n: int, data: st.DataObject, confidence: float) -> None:
    c = data.draw(st.integers(0, n))
    expected = binomtest(c, n).proportion_ci(confidence, method="wilson")
    low, high = wilson(c, n, confidence)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=1e-9, atol=1e-12)
    assert 0 <= low <= c / n <= high <= 1
    mirrored = wilson(n - c, n, confidence)
    np.testing.assert_allclose([1 - mirrored[1], 1 - mirrored[0]], [low, high], atol=1e-12)


def test_wilson_goldens_and_bounds() -> None:
    low, high = wilson([0, 4, 8], 8)
    np.testing.assert_allclose(low, [0, 0.21522, 0.67559], atol=1e-5)
    np.testing.assert_allclose(high, [0.32441, 0.78478, 1], atol=1e-5)
    assert (low[0], high[2]) == (0.0, 1.0)
    assert share(0, 10)["low"] == 0.0
    for c, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="0 <= correct <= total"):
            wilson(c, n)


@given(COUNTS, st.data())
def test_the_zero_variance_share_is_that_of_all_subsets(counts: list[int], data: st.DataObject) -> None:
    k = len(counts) - 1
    group = data.draw(st.integers(1, k))
    equal = []
    for c, prompts in enumerate(counts):
        subsets = list(combinations([1] * c + [0] * (k - c), group))
        equal += [np.mean([len(set(subset)) == 1 for subset in subsets])] * prompts
    assert zero_variance_share(counts, group) == pytest.approx(np.mean(equal))
    assert zero_variance_share(counts, 1) == pytest.approx(1.0)
    assert zero_variance_share(counts, k) == pytest.approx((counts[0] + counts[-1]) / sum(counts))


def test_the_zero_variance_share_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    p_P = rng.beta(0.4, 0.7, 200_000)
    counts = np.bincount(rng.binomial(12, p_P), minlength=13)
    assert zero_variance_share(counts, 8) == pytest.approx(np.mean(p_P**8 + (1 - p_P) ** 8), abs=0.004)


@given(COUNTS)
def test_the_distribution_is_that_of_the_single_prompts(counts: list[int]) -> None:
    k = len(counts) - 1
    rates = np.repeat(np.arange(k + 1) / k, counts)
    report = distribution(counts)
    assert report["mean"] == pytest.approx(rates.mean())
    expected = np.quantile(rates, np.arange(1, 10) / 10, method="inverted_cdf")
    np.testing.assert_allclose(report["deciles"], expected)
    always, never = (rates == 1).sum(), (rates == 0).sum()
    for name, count in (("always", always), ("never", never), ("varying", len(rates) - always - never)):
        interval = binomtest(int(count), len(rates)).proportion_ci(method="wilson")
        assert report[name]["value"] == pytest.approx(count / len(rates))
        assert [report[name][end] for end in ("low", "high")] == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert report["dead"]["value"] == pytest.approx(1 - report["varying"]["value"])
    assert report["zero_variance"]["group"] == k
    assert sum(report["counts"]) == len(rates)


def test_groups_of_eight_where_there_are_more_samples() -> None:
    counts = [5, *[0] * 15, 5]
    assert distribution(counts)["zero_variance"] == {"group": 8, "value": 1.0}
    counts[8] = 10
    assert 0.5 < distribution(counts)["zero_variance"]["value"] < 0.51


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_parts_by_perplexity_are_equal_slices_of_a_sort(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ppl, rate = rng.lognormal(1, 1, size), rng.integers(0, 9, size) / 8
    ppl[rng.random(size) < 0.1] = np.nan
    rate[rng.random(size) < 0.1] = np.nan
    rows = sorted((p, r) for p, r in zip(ppl, rate, strict=True) if not np.isnan(p) and not np.isnan(r))
    parts = by_perplexity(ppl, rate)
    assert len(parts) == min(10, len(rows))
    assert sum(part["prompts"] for part in parts) == len(rows)
    for part in parts:
        mine, rows = rows[: part["prompts"]], rows[part["prompts"] :]
        assert (part["ppl_low"], part["ppl_high"]) == (mine[0][0], mine[-1][0])
        assert part["pass_rate"] == mean_interval([r for _, r in mine])._asdict()
    sizes = [part["prompts"] for part in parts]
    assert not sizes or max(sizes) - min(sizes) <= 1
