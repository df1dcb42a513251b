"""The loss against golden values and a naive loop over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.losses import LOSSES, LossType
from prepo_cli.training.loss import LossOptions, aggregate, divisor, token_loss

SEQUENCES = [0, 0, 0, 1, 2, 2]


def batch_loss(logprobs, old, factors, sequences, options, reference=None):
    sequence_M = torch.tensor(sequences)
    parts = token_loss(logprobs, old, factors, sequence_M, options, reference)
    return aggregate(parts.loss_M, sequence_M, options) / divisor(len(sequences), len(set(sequences)), options), parts


def naive(logprobs, old, factors, sequences, options, reference=None):
    losses = []
    for i, s in enumerate(sequences):
        log_ratio = logprobs[i] - old[i]
        if options.importance_sampling_level == "sequence":
            own = [j for j, t in enumerate(sequences) if t == s]
            log_ratio = sum(logprobs[j] - old[j] for j in own) / len(own)
        ratio = math.exp(log_ratio)
        clipped = min(max(ratio, 1 - options.epsilon), 1 + options.epsilon_high)
        loss = -min(ratio * factors[i], clipped * factors[i])
        if reference is not None:
            gap = reference[i] - logprobs[i]
            loss += options.beta * (math.exp(gap) - gap - 1)
        losses.append(loss)
    if options.loss_type == "dapo":
        return sum(losses) / len(losses)
    names = sorted(set(sequences))
    if options.loss_type == "dr_grpo":
        return sum(losses) / (len(names) * options.max_completion_length)
    means = [np.mean([loss for loss, s in zip(losses, sequences, strict=True) if s == name]) for name in names]
    return float(np.mean(means))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0), st.floats(-3, 3), st.floats(-4, 0)), min_size=6, max_size=6),
    st.sampled_from(["dapo", "grpo", "dr_grpo"]),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from([0.0, 0.1]),
)
def test_equals_a_naive_loop(
    rows: list[tuple[float, float, float, float]], loss_type: str, level: str, beta: float
) -> None:
    options = LossOptions(loss_type, beta=beta, importance_sampling_level=level, max_completion_length=9)
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    reference = columns[3] if beta else None
    ours, _ = batch_loss(*columns[:3], SEQUENCES, options, reference)
    lists = [column.tolist() for column in columns]
    expected = naive(*lists[:3], SEQUENCES, options, lists[3] if beta else None)
    assert float(ours) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_golden_clipping() -> None:
    # Ratios e^0.5 = 1.6487 and e^-0.5 = 0.6065 with bounds 0.8 and 1.28.
    logprobs, old = torch.tensor([0.5, -0.5, 0.5, -0.5]) - 1, torch.full((4,), -1.0)
    _, parts = batch_loss(logprobs, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), [0, 1, 2, 3], LossOptions())
    np.testing.assert_allclose(parts.loss_M, [-1.28, -0.606531, 1.648721, 0.8], atol=1e-6)
    assert parts.clipped_high_M.tolist() == [True, False, False, False]
    assert parts.clipped_low_M.tolist() == [False, False, False, True]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_gradient_is_that_of_reinforce(level: str) -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -1.5, -0.1, -3.0], requires_grad=True)
    factors = torch.tensor([1.0, 1.0, 1.0, -2.0, 0.5, 0.5])
    options = LossOptions("dapo", importance_sampling_level=level)
    loss, _ = batch_loss(logprobs, logprobs.detach(), factors, SEQUENCES, options)
    loss.backward()
    np.testing.assert_allclose(logprobs.grad, -factors / 6, rtol=1e-6)


def test_sequence_level_gradient_is_the_sequence_ratio_times_that_of_reinforce() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old = torch.tensor([-1.1, -2.05])
    loss, _ = batch_loss(
        logprobs, old, torch.ones(2), [0, 0], LossOptions("dapo", importance_sampling_level="sequence")
    )
    loss.backward()
    ratio = math.exp((0.1 + 0.05) / 2)
    np.testing.assert_allclose(logprobs.grad, [-ratio / 2] * 2, rtol=1e-5)


def test_kl_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5])
    for shift, positive in ((0.0, False), (0.3, True), (-0.3, True)):
        _, parts = batch_loss(logprobs, logprobs, torch.zeros(3), [0, 0, 1], LossOptions(beta=0.1), logprobs + shift)
        assert bool((parts.kl_M > 1e-3).all()) is positive


def test_a_new_loss_type_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration and loss take it from the table; here the largest token loss of the batch, undivided."""
    entry = LossType("largest token loss", "0000.00000", lambda loss_M, sequence_M: loss_M.max(), lambda *sizes: 1)
    with pytest.raises(UsageError, match=r"unknown training\.loss_type 'largest'"):
        resolve(sets=["training.loss_type=largest"])
    monkeypatch.setitem(LOSSES, "largest", entry)
    training = resolve(sets=["training.loss_type=largest"]).training
    logprobs, factors = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, -2.0, 0.5])
    loss, _ = batch_loss(logprobs, logprobs, factors, [0, 0, 1], LossOptions.of(training))
    assert float(loss) == 2.0


def test_every_loss_type_is_tested_above_and_has_a_paper() -> None:
    assert set(LOSSES) == {"dapo", "grpo", "dr_grpo"}
    assert all(entry.paper[4] == "." and entry.description for entry in LOSSES.values())
