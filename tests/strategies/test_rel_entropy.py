"""Relative entropy weights: the goldens of the method, a naive loop, and what holds for every batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.base import RolloutWeighting
from strategies.registry import create
from strategies.types import Batch, FloatArray, StepContext
from strategies.weightings.rel_entropy import relative_entropy
from tests.fakes import make_run

GOLDEN = [[0.2, 0.4], [0.6], [0.1, 0.1, 0.1, 0.5]]
CTX = StepContext(0, 10, 0, 0, 7)
entropy = st.one_of(st.just(0.0), st.floats(1e-6, 12))
entropies = st.lists(st.lists(entropy, min_size=1, max_size=9), min_size=1, max_size=12)


def batch_of(rows: list[list[float]], padding: int = 0, rubbish: float = 0.0) -> Batch:
    width = max(map(len, rows)) + padding
    mask_NT = np.array([[t < len(row) for t in range(width)] for row in rows])
    entropy_NT = np.array([row + [rubbish] * (width - len(row)) for row in rows])
    zeros_N = np.zeros(len(rows))
    return Batch(np.zeros(len(rows), dtype=np.int64), zeros_N, zeros_N, entropy_NT, mask_NT)


def weighting(text: str = "rel-entropy") -> RolloutWeighting:
    built = create("weighting", text, make_run())
    assert isinstance(built, RolloutWeighting)
    return built


def naive(rows: list[list[float]], mean: str) -> list[float]:
    own = [sum(row) / len(row) for row in rows]
    pooled = [h for row in rows for h in row] if mean == "token" else own
    overall = sum(pooled) / len(pooled)
    return [h / overall for h in own] if overall > 0 else [1.0] * len(own)


def test_golden_token_mean() -> None:
    w_N = relative_entropy(batch_of(GOLDEN))
    np.testing.assert_allclose(w_N, [1.05, 2.1, 0.7], rtol=1e-12)
    assert float(w_N @ [2, 1, 4]) == pytest.approx(7, abs=1e-12)


def test_golden_sequence_mean() -> None:
    np.testing.assert_allclose(
        weighting("rel-entropy:mean=sequence").weigh(batch_of(GOLDEN), CTX)[:, 0],
        [0.818182, 1.636364, 0.545455],
        atol=5e-7,
    )


@given(entropies, st.sampled_from(["token", "sequence"]))
def test_equals_the_naive_loop(rows: list[list[float]], mean: str) -> None:
    w_N1 = weighting(f"rel-entropy:mean={mean}").weigh(batch_of(rows), CTX)
    assert w_N1.shape == (len(rows), 1)
    np.testing.assert_allclose(w_N1[:, 0], naive(rows, mean), rtol=1e-9)


@given(entropies)
def test_means_are_kept(rows: list[list[float]]) -> None:
    batch = batch_of(rows)
    lengths_N = np.array([len(row) for row in rows])
    assert float(relative_entropy(batch, "token") @ lengths_N) == pytest.approx(lengths_N.sum(), rel=1e-9)
    assert float(relative_entropy(batch, "sequence").mean()) == pytest.approx(1, rel=1e-9)


@given(entropies, st.integers(1, 7), st.floats(0, 100))
def test_padding_changes_nothing(rows: list[list[float]], padding: int, rubbish: float) -> None:
    for mean in ("token", "sequence"):
        plain: FloatArray = relative_entropy(batch_of(rows), mean)
        np.testing.assert_allclose(relative_entropy(batch_of(rows, padding, rubbish), mean), plain, rtol=1e-9)


@given(entropies, st.floats(0.1, 10))
def test_the_unit_of_entropy_changes_nothing(rows: list[list[float]], factor: float) -> None:
    scaled = [[h * factor for h in row] for row in rows]
    np.testing.assert_allclose(relative_entropy(batch_of(scaled)), relative_entropy(batch_of(rows)), rtol=1e-9)


def test_no_entropy_at_all_weighs_1() -> None:
    np.testing.assert_array_equal(relative_entropy(batch_of([[0.0, 0.0], [0.0]])), [1.0, 1.0])


def test_an_empty_rollout_weighs_nothing_and_moves_nobody() -> None:
    batch = batch_of([*GOLDEN, []])
    for mean in ("token", "sequence"):
        np.testing.assert_allclose(relative_entropy(batch, mean), [*naive(GOLDEN, mean), 0.0])


@given(st.lists(st.lists(st.tuples(entropy, st.integers(1, 9), st.booleans()), max_size=4), min_size=1, max_size=6))
def test_weights_are_those_of_what_is_trained_on(groups: list[list[tuple[float, int, bool]]]) -> None:
    """Masked rollouts are not in the batch: groups shrink or go, and every mean is over the rollouts that are left."""
    trained = [(n, [h] * t) for n, group in enumerate(groups) for h, t, masked in group if not masked]
    if not trained:
        return
    numbers, rows = zip(*trained, strict=True)
    batch = replace(batch_of(list(rows)), group_N=np.array(numbers))
    tokens = sum(map(len, rows))
    w_N = weighting().weigh(batch, CTX)[:, 0]
    assert float(w_N @ batch.lengths_N) == pytest.approx(tokens, rel=1e-9)
    assert weighting("high-entropy-tokens").weigh(batch, CTX).sum() == math.ceil(0.2 * tokens - 1e-9)
    share_N = weighting("entropy-share").weigh(batch, CTX)[:, 0]
    for number in set(numbers):
        assert share_N[batch.group_N == number].mean() == pytest.approx(1, rel=1e-9)


def test_max_weight_clips() -> None:
    w_N1 = weighting("rel-entropy:max_weight=1").weigh(batch_of(GOLDEN), CTX)
    np.testing.assert_allclose(w_N1[:, 0], [1.0, 1.0, 0.7])


def test_metrics_are_of_the_last_batch() -> None:
    built = weighting()
    assert built.metrics() == {}
    built.weigh(batch_of(GOLDEN), CTX)
    assert built.metrics()["mean"] == pytest.approx((1.05 + 2.1 + 0.7) / 3)
    assert (built.metrics()["p0"], built.metrics()["p100"]) == (pytest.approx(0.7), pytest.approx(2.1))


def test_uniform_weighs_1() -> None:
    np.testing.assert_array_equal(weighting("uniform").weigh(batch_of(GOLDEN), CTX), np.ones((3, 1)))
