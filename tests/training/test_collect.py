"""Rounds, fates and costs of a step's rollouts, through the real loop over fake rollouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prepo_cli.training.rollouts import Collected, Sample
from prepo_cli.training.rounds import refill_size
from strategies import Prompt
from tests.fakes import FakeRun, make_rollout, make_run

PROMPT = Prompt(3, "p")


def group(zero_variance: bool) -> list[Sample]:
    """Two rollouts, kept unless their rewards are equal."""
    samples = [Sample(PROMPT, [3], make_rollout(PROMPT, seed), "", 1.0) for seed in (0, 1)]
    for number, sample in enumerate(samples):
        sample.reward = 1.0 if zero_variance else float(number)
        sample.fate = "filtered" if zero_variance else "trained"
    return samples


def after(kept: int, dropped: int) -> Collected[Sample]:
    return Collected(groups=[*(group(False) for _ in range(kept)), *(group(True) for _ in range(dropped))])


@pytest.mark.parametrize(
    ("wanted", "kept", "dropped", "size"),
    [
        (256, 0, 0, 256),  # the first round
        (256, 156, 100, 205),  # 1.25 * 100 / (156 / 256) = 205.13
        (8, 5, 3, 6),  # 1.25 * 3 / (5 / 8) = 6 exactly
        (8, 7, 1, 1),  # 1.25 / (7 / 8) = 1.43: truncated, as GRESO's public code does, not rounded up
        (8, 1, 7, 8),  # 70 would be more than a full round
        (8, 0, 8, 8),  # all have zero variance
    ],
)
def test_refill_sizes(wanted: int, kept: int, dropped: int, size: int) -> None:
    assert refill_size(after(kept, dropped), wanted) == size


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 40))
def test_refill_size_is_the_public_codes(wanted: int, kept: int, dropped: int) -> None:
    assume(kept < wanted and kept + dropped)
    zero_variance_ratio = dropped / (kept + dropped)
    expected = wanted
    if zero_variance_ratio < 1:
        expected = max(1, min(wanted, int(1.25 * (wanted - kept) / (1 - zero_variance_ratio))))
    assert refill_size(after(kept, dropped), wanted) == expected


@pytest.mark.parametrize("weighting", ["rel-entropy", "high-entropy-tokens", "uniform"])
def test_masked_rollouts_are_neither_weighed_nor_counted_as_trained(weighting: str) -> None:
    """Means of a weighting and `cost/rollouts_trained` are over what is trained on: sum w |o| = sum |o|."""
    run = FakeRun({"weighting": weighting}, make_run())
    run.config.training.mask_truncated_completions = True
    trained = 0
    for record in run.steps(6):
        rolled_out = [completion for group in record.groups for completion in group.completions]
        kept = [completion for completion in rolled_out if not completion.truncated]
        assert 0 < len(kept) < len(rolled_out)
        trained += len(kept)
        assert record.logged["cost/rollouts_trained"] == trained
        assert record.logged["rollouts_trained"] == len(kept) == len(record.batch.rewards_N)
        assert sorted(record.batch.lengths_N) == sorted(completion.num_tokens for completion in kept)
        if weighting == "rel-entropy":
            weighed = float((record.weights[:, 0] * record.batch.lengths_N).sum())
            assert weighed == pytest.approx(record.batch.lengths_N.sum())
        if weighting == "high-entropy-tokens":
            assert record.weights.sum() == math.ceil(0.2 * record.batch.lengths_N.sum() - 1e-9)


def test_advantages_are_taken_over_masked_rollouts_too() -> None:
    run = FakeRun({}, make_run())
    run.config.training.mask_truncated_completions = True
    for record in run.steps(4):
        expected = []
        for rolled_out in record.groups:
            rewards_N = rolled_out.rewards_N
            scaled_N = (rewards_N - rewards_N.mean()) / (rewards_N.std(ddof=1) + 1e-6)
            expected += [a for a, c in zip(scaled_N, rolled_out.completions, strict=True) if not c.truncated]
        np.testing.assert_allclose(record.batch.advantages_N, expected, atol=1e-9)


def test_a_step_without_gradient_is_not_an_update() -> None:
    prompts = [Prompt(index=row, id=f"never-{row}") for row in range(400)]
    never = [prompt for prompt in prompts if make_never_solved(prompt)][:12]
    renumbered = [Prompt(index=row, id=prompt.id) for row, prompt in enumerate(never)]
    run = FakeRun({}, make_run(12), renumbered)
    run.collector.engine.prompts = never
    (record,) = run.steps(1)
    assert record.report is not None
    assert record.logged["frac_all_wrong"] == 1
    assert (record.report.updated, record.logged["updated"]) == (False, False)


def make_never_solved(prompt: Prompt) -> bool:
    return not any(make_rollout(prompt, seed).token_ids[0] for seed in range(50))


def test_rewards_by_function_are_logged() -> None:
    for record in FakeRun({"filter": "nonzero-variance"}, make_run()).steps(3):
        rewards = [completion.reward for group in record.groups for completion in group.completions]
        assert record.logged["rewards/fake/mean"] == pytest.approx(np.mean(rewards))
        assert record.logged["rewards/fake/std"] == pytest.approx(np.std(rewards, ddof=1))
        assert record.logged["rewards/errors"] == 0
