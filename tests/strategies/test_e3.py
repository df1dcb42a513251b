"""E3's difficulty, budgets and temperature against the goldens, naive computations and their properties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import registry
from strategies.budgets.e3 import E3Budget, budgets, difficulty_ranks
from strategies.errors import StrategyError
from strategies.temperatures.entropy_target import EntropyTarget, annealed, scale
from strategies.types import RunInfo, StepContext, StepReport
from tests.fakes import make_group, make_prompts, make_run

CTX = StepContext(0, 20, 0, 0, 7)


def report(step: int = 0, entropy: float | None = 0.4, ended: bool = False, total: int = 100) -> StepReport:
    return StepReport(step, total, 0, ended, 1.0, entropy, 0.5, True, 0, 0)


def test_golden_difficulty() -> None:
    np.testing.assert_allclose(difficulty_ranks(np.array([1, 0.25, 0.25, 0, 0])), [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "expected"), [(6, 10, [6, 6, 8, 10, 10]), (4, 12, [4, 5, 7, 12, 12])])
def test_golden_budgets(low: int, high: int, expected: list[int]) -> None:
    k = np.array([0, 0.2, 0.4, 0.6, 0.8], dtype=np.float32)
    assert budgets(k, 40, low, high).tolist() == expected


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.integers(0, 4), st.booleans())
def test_budgets_sum_exactly_reach_the_minimum_and_never_fall_with_difficulty(
    k: list[float], spread: int, cap: bool
) -> None:
    low, high, total = 8 - spread, 8 + spread, 8 * len(k)
    counts = budgets(np.array(k), total, low, high, cap)
    assert counts.sum() == total
    assert counts.min() >= low
    assert not cap or counts.max() <= high
    for a, b in zip(np.argsort(k, kind="stable")[:-1], np.argsort(k, kind="stable")[1:], strict=True):
        assert k[a] == k[b] or counts[a] <= counts[b]


def test_bounds_widen_each_epoch_and_scale_with_g() -> None:
    budget = registry.create("budget", "e3", make_run())
    assert isinstance(budget, E3Budget)
    seen = [(budget.low, budget.high)]
    for _ in range(4):
        budget.end_step(report(ended=True))
        seen.append((budget.low, budget.high))
    assert seen == [(8, 8), (6, 10), (4, 12), (4, 12), (4, 12)]
    small = registry.create("budget", "e3", make_run(num_generations=4))
    for _ in range(9):
        small.end_step(report(ended=True))
    assert (small.low, small.high) == (2, 6)


def test_difficulty_comes_from_mean_rewards_at_the_epochs_end_alone() -> None:
    run = make_run(5, prompts_per_step=5)
    prompts = make_prompts(5)
    budget = registry.create("budget", "e3", run)
    assert isinstance(budget, E3Budget)
    for prompt, rewards in zip(prompts, [[1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0]], strict=False):
        budget.observe([make_group(prompt, rewards)], CTX)
    assert budget.allocate(prompts, 40, CTX) == [8] * 5
    budget.end_step(report(ended=True))
    assert budget.allocate(prompts, 40, CTX) == [6, 6, 8, 10, 10]
    budget.end_step(report(ended=True))
    assert budget.allocate(prompts, 40, CTX) == [4, 5, 7, 12, 12]


def test_rank_column_seeds_the_first_epoch_alone() -> None:
    prompts = [replace(p, rank=rank) for p, rank in zip(make_prompts(5), [0, 1, 2, 3, 4], strict=True)]
    budget = registry.create("budget", "e3:seed_with_rank=true", make_run())
    assert isinstance(budget, E3Budget)
    assert budget.allocate(prompts, 40, CTX) == budgets(np.arange(5), 40, 6, 10).tolist() != [8] * 5
    budget.observe([make_group(p, [p.index % 2] * 4) for p in prompts], CTX)
    budget.end_step(report(ended=True))
    assert (budget.low, budget.high) == (6, 10)
    assert budget.allocate(prompts, 40, CTX) == budgets(budget.k_P[:5], 40, 6, 10).tolist()


@pytest.mark.parametrize("rank", [-1.0, math.nan, math.inf])
def test_ranks_that_are_no_difficulty_are_refused(rank: float) -> None:
    budget = registry.create("budget", "e3:seed_with_rank=true", make_run())
    prompts = [*make_prompts(3), replace(make_prompts(1)[0], id="odd", rank=rank)]
    with pytest.raises(StrategyError, match=f"prompt 'odd' has rank={rank}"):
        budget.allocate(prompts, 32, CTX)


def test_rank_column_is_asked_for_by_name() -> None:
    with pytest.raises(StrategyError, match="column 'rank'"):
        registry.create("budget", "e3:seed_with_rank=true", make_run(columns=frozenset()))


def schedule(vocab: int = 151_936, **changes: object) -> EntropyTarget:
    run = RunInfo(10, 100, 2, 8, vocab_size=vocab, **changes)
    made = registry.create("temperature_schedule", "entropy-target", run)
    assert isinstance(made, EntropyTarget)
    return made


def test_golden_temperatures() -> None:
    assert scale(151_936) == pytest.approx(14.410372704923935, rel=1e-12)
    made = schedule()
    made.end_step(report(0, 0.4))
    assert made.temperature(CTX) == 1.0
    for step, (entropy, expected) in enumerate(
        [(0.36, 1.007311435853552), (0.32, 1.0230236234617067), (0.45, 1.014469434198823)], 1
    ):
        made.end_step(report(step, entropy))
        assert made.temperature(CTX) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 300), st.integers(1, 300))
def test_annealing_is_flat_then_falls_to_nine_tenths(t: int, t_max: int) -> None:
    target = annealed(0.4, t, t_max, 0.4, 0.1)
    t_a = t_max - int(0.4 * t_max)
    if t <= t_a or t_a == t_max:
        assert target == 0.4
    else:
        expected = 0.4 * (0.9 + 0.1 * (1 + math.cos(math.pi * min((t - t_a) / (t_max - t_a), 1))) / 2)
        assert target == pytest.approx(expected)
        assert 0.36 - 1e-12 <= target <= 0.4


def test_the_annealed_target_is_used_at_the_next_step() -> None:
    made = schedule()
    for step in range(61):
        made.end_step(report(step, 0.4))
        assert made.value == 1.0  # up to step 61 (from 1) the target that moved T was the first
    made.end_step(report(61, 0.4))
    assert made.value < 1.0


def test_the_target_falls_on_through_steps_without_entropy() -> None:
    made = schedule()
    made.end_step(report(0, 0.4))
    made.end_step(report(99, None))
    assert (made.value, made.target) == (1.0, pytest.approx(0.36))


def test_no_entropy_leaves_the_temperature_alone_and_bounds_hold() -> None:
    made = schedule(vocab=20)
    for entropy in (None, 0.0, -1.0):
        made.end_step(report(0, entropy))
    assert (made.value, made.first_target) == (1.0, None)
    made.end_step(report(0, 0.4))
    for step in range(1, 200):
        made.end_step(report(step, 1e-6))
    assert made.value == 2.0
    for step in range(1, 200):
        made.end_step(report(step, 50.0))
    assert made.value == 0.1
