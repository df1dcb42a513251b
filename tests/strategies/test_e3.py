"""E3's difficulty, budgets and temperature against the goldens, naive computations and their properties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import registry
from strategies.budgets.e3 import E3Budget, budgets, positions_by_reward
from strategies.errors import StrategyError
from strategies.temperatures.entropy_target import EntropyTarget, annealed, scale
from strategies.types import RunInfo, StepContext, StepReport
from tests.fakes import FakeRun, make_group, make_prompts, make_run

CTX = StepContext(0, 20, 0, 0, 7)


def report(step: int = 0, entropy: float | None = 0.4, ended: int = 0, total: int = 100) -> StepReport:
    return StepReport(step, total, 0, ended, 1.0, entropy, 0.5, True, 0, 0)


def make(text: str = "e3", **changes: Any) -> E3Budget:
    budget = registry.create("budget", text, make_run(**changes))
    assert isinstance(budget, E3Budget)
    return budget


def naive(k: Sequence[float], total: int, low: int, high: int, cap: bool) -> list[int]:
    """The rule of the public code, one prompt at a time."""
    n = len(k)
    counts = [math.floor(low + (total - low * n) * (each / (math.fsum(k) + 1e-8))) for each in k]
    counts = [min(count, high) if cap else count for count in counts]
    hardest_first = sorted(range(n), key=lambda i: -k[i])
    for i in hardest_first:
        while sum(counts) < total and counts[i] < high:
            counts[i] += 1
    for i in itertools.cycle(hardest_first):
        if sum(counts) == total:
            return counts
        counts[i] += 1
    raise AssertionError


def test_golden_difficulty() -> None:
    positions = positions_by_reward(np.array([1, 0.25, 0.25, 0, 0]))
    assert (positions / 5).tolist() == [0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high", "expected"), [(6, 10, [6, 6, 8, 10, 10]), (4, 12, [4, 5, 7, 12, 12])])
def test_golden_budgets(low: int, high: int, expected: list[int], dtype: type) -> None:
    assert budgets(np.array([0, 0.2, 0.4, 0.6, 0.8], dtype=dtype), 40, low, high).tolist() == expected


POSITIONS = st.integers(1, 40).flatmap(lambda n: st.lists(st.integers(0, n - 1).map(lambda p: p / n), max_size=n))
DIFFICULTIES = st.one_of(st.lists(st.floats(0, 1), max_size=30), POSITIONS).filter(len)


@given(DIFFICULTIES, st.integers(0, 4), st.integers(0, 9), st.booleans())
def test_budgets_equal_the_naive_rule(k: list[float], spread: int, over: int, cap: bool) -> None:
    total, low, high = 8 * len(k) + over, 8 - spread, 8 + spread
    assert budgets(np.array(k), total, low, high, cap).tolist() == naive(k, total, low, high, cap)


@given(DIFFICULTIES, st.integers(0, 4), st.booleans())
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


@given(st.permutations(range(12)), st.integers(1, 12))
def test_difficulty_from_rewards_and_from_the_rank_column_give_the_same_budgets(order: list[int], size: int) -> None:
    prompts = make_prompts(12)
    learned, seeded = make(num_prompts=12), make("e3:seed_with_rank=true", num_prompts=12)
    for prompt, place in zip(prompts, order, strict=True):
        learned.observe([make_group(prompt, [1.0 - place / 12])], CTX)
    learned.end_step(report(ended=1))
    ranked = [replace(prompt, rank=place / 12) for prompt, place in zip(prompts, order, strict=True)][:size]
    assert learned.difficulty(ranked).tolist() == seeded.difficulty(ranked).tolist()
    assert learned.allocate(ranked, 8 * size, CTX) == seeded.allocate(ranked, 8 * size, CTX)


def test_bounds_widen_each_epoch_and_scale_with_g() -> None:
    budget = make()
    seen = [budget.bounds]
    for _ in range(4):
        budget.end_step(report(ended=1))
        seen.append(budget.bounds)
    assert seen == [(8, 8), (6, 10), (4, 12), (4, 12), (4, 12)]
    small = make(num_generations=4)
    for _ in range(9):
        small.end_step(report(ended=1))
    assert small.bounds == (2, 6)


@given(st.lists(st.integers(0, 3), max_size=6))
def test_a_step_that_crosses_several_epochs_widens_once_for_each(ended: list[int]) -> None:
    together, apart = make(num_generations=40), make(num_generations=40)
    for count in ended:
        together.end_step(report(ended=count))
        for _ in range(count):
            apart.end_step(report(ended=1))
    assert together.bounds == apart.bounds == (max(40 - 10 * sum(ended), 20), min(40 + 10 * sum(ended), 60))


def test_the_run_counts_every_epoch_that_ends_in_a_step() -> None:
    # 30 prompts: two and a half passes over 12
    run = FakeRun({"selector": "full", "budget": "e3"}, make_run(12, prompts_per_step=30))
    record = run.steps(1)[0]
    assert run.stream.epoch == 2
    assert (record.metrics["budget/g_min"], record.metrics["budget/g_max"]) == (4, 12)


def test_difficulty_comes_from_mean_rewards_at_the_epochs_end_alone() -> None:
    prompts = make_prompts(5)
    budget = make(num_prompts=5, prompts_per_step=5)
    for prompt, rewards in zip(prompts, [[1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0]], strict=False):
        budget.observe([make_group(prompt, rewards)], CTX)
    assert budget.allocate(prompts, 40, CTX) == [8] * 5
    budget.end_step(report(ended=1))
    assert budget.allocate(prompts, 40, CTX) == [6, 6, 8, 10, 10]
    budget.end_step(report(ended=1))
    assert budget.allocate(prompts, 40, CTX) == [4, 5, 7, 12, 12]


def test_rank_column_seeds_the_first_epoch_alone() -> None:
    prompts = [replace(p, rank=rank) for p, rank in zip(make_prompts(5), [0, 1, 2, 3, 4], strict=True)]
    budget = make("e3:seed_with_rank=true")
    assert budget.allocate(prompts, 40, CTX) == [6, 6, 8, 10, 10]
    budget.observe([make_group(p, [p.index % 2] * 4) for p in prompts], CTX)
    budget.end_step(report(ended=1))
    assert budget.bounds == (6, 10)
    assert budget.allocate(prompts, 40, CTX) == budgets(budget.position_P[:5] / 48, 40, 6, 10).tolist()


@pytest.mark.parametrize("rank", [-1.0, math.nan, math.inf])
def test_ranks_that_are_no_difficulty_are_refused(rank: float) -> None:
    budget = make("e3:seed_with_rank=true")
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
