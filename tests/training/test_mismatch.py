"""Corrections for the gap between engine and trainer, against a loop over tokens and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.losses import sequence_sum
from prepo_cli.training.mismatch import correction

MODES = ["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
SEQUENCES = st.lists(st.lists(st.tuples(st.floats(-6, 0), st.floats(-6, 0)), min_size=1, max_size=5), min_size=1)


def naive(sequences: list[list[tuple[float, float]]], mode: str, cap: float) -> list[float]:
    weights = []
    for tokens in sequences:
        whole = math.exp(sum(trainer - engine for trainer, engine in tokens))
        for trainer, engine in tokens:
            ratio = whole if mode.startswith("sequence") else math.exp(trainer - engine)
            if mode.endswith("truncate"):
                weights.append(min(ratio, cap))
            elif mode.endswith("mask"):
                weights.append(ratio if 1 / cap <= ratio <= cap else 0.0)
            else:
                weights.append(1.0)
    return weights


def tensors(sequences: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pairs = torch.tensor([pair for tokens in sequences for pair in tokens], dtype=torch.float64)
    number = torch.tensor([i for i, tokens in enumerate(sequences) for _ in tokens])
    return pairs[:, 0], pairs[:, 1], number


@pytest.mark.parametrize("mode", MODES)
@given(sequences=SEQUENCES, cap=st.floats(1.5, 8))
def test_weights_are_a_loops(mode: str, sequences: list[list[tuple[float, float]]], cap: float) -> None:
    sums = [sum(a - b for a, b in tokens) for tokens in sequences]
    singles = [a - b for tokens in sequences for a, b in tokens]
    if any(abs(abs(value) - math.log(cap)) < 1e-9 for value in [*sums, *singles]) or max(map(abs, sums)) > 19:
        return  # on the border rounding decides; beyond e^19 ratios are cut
    found = correction(*tensors(sequences), mode, cap).weight_M
    np.testing.assert_allclose(found.numpy(), naive(sequences, mode, cap), rtol=1e-9)


def test_by_hand() -> None:
    trainer = torch.tensor([0.0, math.log(3.0), math.log(0.25)])
    found = correction(trainer, torch.zeros(3), torch.tensor([0, 0, 1]), "token_truncate", 2.0)
    assert found.weight_M.tolist() == pytest.approx([1, 2, 0.25])
    assert found.stats.corrected == 1
    assert found.stats.ratio == pytest.approx(4.25)
    assert found.stats.ratio_max == pytest.approx(3)
    assert found.stats.ratio_min == pytest.approx(0.25)
    assert found.stats.engine_gap == pytest.approx(math.log(3) + math.log(4))
    assert found.stats.engine_kl == pytest.approx(4.25 - math.log(0.75) - 3)
    masked = correction(trainer, torch.zeros(3), torch.tensor([0, 0, 1]), "token_mask", 3.5).weight_M
    assert masked.tolist() == pytest.approx([1, 3, 0])
    sequence = correction(trainer, torch.zeros(3), torch.tensor([0, 0, 1]), "sequence_truncate", 2.0).weight_M
    assert sequence.tolist() == pytest.approx([2, 2, 0.25])


def test_without_a_correction_the_gap_is_still_measured() -> None:
    found = correction(torch.tensor([1.0]), torch.zeros(1), torch.zeros(1, dtype=torch.long), "none", 2.0)
    assert found.weight_M.tolist() == [1]
    assert found.stats.engine_gap == 1
    assert found.stats.ratio is None


@pytest.mark.parametrize("mode", MODES)
def test_equal_log_probs_change_nothing(mode: str) -> None:
    logprobs = torch.randn(6)
    found = correction(logprobs, logprobs, torch.tensor([0, 0, 1, 1, 1, 2]), mode, 2.0)
    assert found.weight_M.tolist() == [1.0] * 6
    assert found.stats.corrected == 0


def test_extreme_gaps_stay_finite() -> None:
    found = correction(
        torch.full((4,), 500.0), torch.zeros(4), torch.zeros(4, dtype=torch.long), "sequence_truncate", 2.0
    )
    assert torch.isfinite(found.weight_M).all()
    stats = found.stats
    measured = (stats.engine_gap, stats.engine_gap_max, stats.engine_kl, stats.ratio, stats.ratio_max, stats.ratio_min)
    assert all(math.isfinite(value) for value in measured)


def test_sequence_sum() -> None:
    assert sequence_sum(torch.tensor([1.0, 2, 3]), torch.tensor([0, 2, 2])).tolist() == [1, 0, 5]
    assert sequence_sum(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []
