"""The predicted pass rate: closed forms against sums and simulation, and what the model learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from strategies.pass_rate_model import (
    COMMON,
    STRENGTHS_S,
    Moments,
    PassRateModel,
    expected_varied,
    laplace_update,
    log_likelihood,
    sigmoid,
    varied,
)
from strategies.types import Prompt

COUNTS = st.floats(0.05, 50)


@given(st.floats(0, 1), st.integers(2, 32))
def test_varied_is_the_probability_of_differing_rewards(p: float, n: int) -> None:
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(1, n))
    assert float(varied(np.array([p]), n)[0]) == pytest.approx(exact, abs=1e-9)


@given(COUNTS, COUNTS, st.integers(2, 32))
def test_expected_varied_is_what_the_beta_binomial_distribution_says(a: float, b: float, n: int) -> None:
    counts = stats.betabinom(n, a, b)
    exact = 1 - counts.pmf(0) - counts.pmf(n)
    assert float(expected_varied(np.array([a]), np.array([b]), n)[0]) == pytest.approx(exact, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 8)), min_size=1, max_size=6))
def test_the_likelihood_of_each_strength_is_scipys_without_what_is_common(seen: list[tuple[float, int]]) -> None:
    mean_B, right_B = (np.array(column, dtype=np.float64) for column in zip(*seen, strict=True))
    found_S = log_likelihood(mean_B, right_B, np.full(len(seen), 8.0))
    exact_S = [
        sum(stats.betabinom(8, s * m, s * (1 - m)).logpmf(k) - math.log(math.comb(8, k)) for m, k in seen)
        for s in STRENGTHS_S
    ]
    np.testing.assert_allclose(found_S, exact_S, atol=1e-8)


def test_laplace_update_is_the_posterior_mode() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([np.ones(400), rng.normal(size=400), rng.normal(size=400) ** 2], axis=1)
    true = np.array([0.3, -1.2, 0.4])
    total = np.full(400, 8.0)
    right = rng.binomial(8, sigmoid(x @ true)).astype(float)
    mean, precision = laplace_update(np.zeros(3), np.eye(3), x, right, total)
    np.testing.assert_allclose(mean, true, atol=0.15)

    def log_posterior(w: np.ndarray) -> float:
        p = sigmoid(x @ w)
        return float((right * np.log(p) + (total - right) * np.log(1 - p)).sum() - 0.5 * w @ w)

    for direction in np.eye(3):  # a maximum whose curvature is the precision
        step = 1e-3 * direction
        ahead, here, behind = log_posterior(mean + step), log_posterior(mean), log_posterior(mean - step)
        assert ahead < here > behind
        assert -(ahead - 2 * here + behind) / 1e-6 == pytest.approx(direction @ precision @ direction, rel=1e-2)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=9), min_size=1, max_size=5))
def test_moments_are_those_of_all_values(parts: list[list[float]]) -> None:
    moments, values = Moments(), np.concatenate(parts)
    for part in parts:
        moments.add(np.array(part))
    count, mean, squares = moments.state
    assert count == len(values)
    assert mean == pytest.approx(values.mean(), abs=1e-9)
    assert squares == pytest.approx(((values - values.mean()) ** 2).sum(), abs=1e-7)
    expected = np.clip((values - values.mean()) / (values.std() or 1.0), -4, 4) if squares > 1e-12 else None
    if expected is not None:
        np.testing.assert_allclose(moments.standardized(values), expected, atol=1e-6)


def world(rng: np.random.Generator, count: int, spread: float) -> tuple[list[Prompt], np.ndarray, np.ndarray]:
    """Prompts of two sources whose pass rate falls with log perplexity in `easy` and rises with it in `odd`."""
    prompts = [Prompt(i, str(i), source=("easy", "odd")[i % 2], num_tokens=10) for i in range(count)]
    log_ppl = rng.normal(1.0, 0.5, count)
    z = (log_ppl - 1.0) / 0.5
    mean = sigmoid(np.where(np.arange(count) % 2, 1.5 * z, -1.5 * z))
    return prompts, log_ppl, rng.beta(spread * mean, spread * (1 - mean))


def trained(pooled: bool, spread: float, strength: float | None = None) -> tuple[PassRateModel, np.random.Generator]:
    rng = np.random.default_rng(3)
    model = PassRateModel(1.0, pooled, False, strength)
    for _ in range(60):
        prompts, log_ppl, rate = world(rng, 16, spread)
        model.count(prompts, log_ppl)
        right = rng.binomial(8, rate).astype(float)
        model.learn(model.features(prompts, log_ppl), right, np.full(16, 8.0), np.ones(16, dtype=bool))
    return model, rng


def test_pooling_finds_a_source_where_perplexity_means_the_opposite() -> None:
    errors = {}
    for pooled in (True, False):
        model, rng = trained(pooled, 8.0)
        prompts, log_ppl, rate = world(rng, 400, 1e6)
        errors[pooled] = float(np.abs(model.predicted(model.features(prompts, log_ppl)) - rate).mean())
    assert errors[True] < 0.09
    assert errors[False] > 0.2


@pytest.mark.parametrize("spread", [0.25, 1.0, 8.0])
def test_the_strength_that_made_the_outcomes_is_found(spread: float) -> None:
    model, _ = trained(True, spread)
    assert spread / 2.1 <= model.strength <= spread * 2.1
    assert trained(True, spread, strength=3.0)[0].strength == 3.0


def test_a_new_source_starts_at_the_shared_prediction() -> None:
    model, _ = trained(True, 8.0)
    log_ppl = np.array([0.5, 1.5])
    new, none = ([Prompt(i, str(i), source=source, num_tokens=10) for i in range(2)] for source in ("new", None))
    np.testing.assert_allclose(
        model.predicted(model.features(new, log_ppl)), model.predicted(model.features(none, log_ppl)), atol=1e-12
    )


def test_drawn_means_have_the_posterior_as_their_distribution() -> None:
    model, rng = trained(False, 8.0)
    prompts, log_ppl, _ = world(rng, 3, 8.0)
    x = model.features(prompts, log_ppl)
    drawn = np.array([model.drawn_mean(x, rng) for _ in range(4000)])
    logits = np.log(drawn / (1 - drawn))
    covariance = x @ np.linalg.inv(model.precision_FF) @ x.T
    np.testing.assert_allclose(logits.mean(axis=0), x @ model.mean_F, atol=4 * np.sqrt(covariance.max() / 4000))
    np.testing.assert_allclose(np.cov(logits.T), covariance, rtol=0.15, atol=1e-3)


def test_length_is_a_feature_only_where_asked_for() -> None:
    prompts = [Prompt(i, str(i), num_tokens=10 * (i + 1)) for i in range(4)]
    for with_length in (True, False):
        model = PassRateModel(1.0, True, with_length, None)
        model.count(prompts, np.ones(4))
        x = model.features(prompts, np.ones(4))
        assert (x[:, COMMON - 1] != 0).any() == with_length
        assert not x[:, COMMON:].any()


def test_state_restores_every_prediction() -> None:
    model, rng = trained(True, 1.0)
    other = PassRateModel(1.0, True, False, None)
    other.load_state_dict(model.state_dict())
    prompts, log_ppl, _ = world(rng, 20, 1.0)
    np.testing.assert_array_equal(
        other.predicted(other.features(prompts, log_ppl)), model.predicted(model.features(prompts, log_ppl))
    )
    assert other.strength == model.strength
