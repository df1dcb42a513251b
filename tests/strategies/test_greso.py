"""GRESO against the goldens and a naive replay of every prompt's visits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import registry
from strategies.selectors.greso import EASY, HARD, MIXED, Greso, label_of
from strategies.types import Prompt, StepContext, StepReport
from tests.fakes import FakeSource, make_group, make_prompts, make_run

EASY_R, HARD_R, MIXED_R = [1, 1, 1], [0, 0, 0], [1, 0, 1]
CTX = StepContext(0, 20, 0, 0, 7)


def make(text: str = "greso") -> Greso:
    selector = registry.create("selector", text, make_run())
    assert isinstance(selector, Greso)
    return selector


def report(epoch: int) -> StepReport:
    return StepReport(0, 20, epoch, 0, 1.0, 0.5, 0.5, True, 0, 0)


def visits(selector: Greso, *rewards: list[int], index: int = 0) -> None:
    for each in rewards:
        selector.observe([make_group(Prompt(index, str(index)), each)], CTX)


@pytest.mark.parametrize(("streak", "p"), [(0, 1), (1, 0.5), (3, 0.125), (6, 0.015625), (7, 0.01)])
def test_golden_probabilities(streak: int, p: float) -> None:
    selector = make()
    visits(selector, *[HARD_R] * streak)
    assert selector.probability(np.array([0]))[0] == p


def test_golden_floor_and_broken_streak() -> None:
    low = make("greso:p_easy=0.05,p_hard=0.05")
    visits(low, EASY_R, EASY_R)
    assert low.probability(np.array([0]))[0] == 0.01
    broken = make()
    visits(broken, HARD_R, HARD_R, EASY_R)
    assert (broken.streaks_P[0], broken.probability(np.array([0]))[0]) == (1, 0.5)


@pytest.mark.parametrize(("epoch", "p_easy", "p_hard"), [(1, 0.51, 0.49), (0, 0.5, 0.5)])
def test_golden_adaptation(epoch: int, p_easy: float, p_hard: float) -> None:
    selector = make()
    groups = [make_group(p, r) for p, r in zip(make_prompts(20), [EASY_R] + [HARD_R] * 4 + [MIXED_R] * 15, strict=True)]
    selector.observe(groups[:8], CTX)  # in two rounds: all rounds of the step count
    selector.observe(groups[8:], replace(CTX, round=1))
    selector.end_step(report(epoch))
    assert (selector.p_easy, selector.p_hard) == pytest.approx((p_easy, p_hard))
    assert (selector.metrics()["easy_share"], selector.metrics()["hard_share"]) == (0.05, 0.2)


def test_a_share_of_exactly_the_target_lowers_the_probability() -> None:
    selector = make()
    kinds = [EASY_R] * 1 + [HARD_R] * 2 + [MIXED_R] * 9  # one twelfth and one sixth: the targets themselves
    selector.observe([make_group(p, r) for p, r in zip(make_prompts(12), kinds, strict=True)], CTX)
    selector.end_step(report(1))
    assert (selector.p_easy, selector.p_hard) == pytest.approx((0.49, 0.49))


@pytest.mark.parametrize(
    ("rewards", "label"), [(EASY_R, EASY), (HARD_R, HARD), (MIXED_R, MIXED), ([0.1, 0.1], HARD), ([1], EASY)]
)
def test_labels_do_not_depend_on_the_number_of_rollouts(rewards: list[float], label: int) -> None:
    assert label_of(make_group(Prompt(0, "0"), rewards)) == label


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ehm")), max_size=60), st.floats(0.05, 0.95))
def test_probabilities_equal_a_naive_replay(seen: list[tuple[int, str]], p: float) -> None:
    selector = make(f"greso:p_easy={p},p_hard={p}")
    rewards = {"e": EASY_R, "h": HARD_R, "m": MIXED_R}
    for index, kind in seen:
        visits(selector, rewards[kind], index=index)
    for index in range(5):
        own = [kind for i, kind in seen if i == index]
        streak = 0
        while streak < len(own) and own[-1 - streak] == own[-1]:
            streak += 1
        expected = 1.0 if not own or own[-1] == "m" else max(p**streak, 0.01)
        got = selector.probability(np.array([index]))[0]
        assert got == pytest.approx(expected)
        assert 0.01 <= got <= 1.0


def test_rolls_follow_the_probability_and_differ_between_rounds() -> None:
    selector = make()
    for index in range(24):
        visits(selector, HARD_R, HARD_R, index=index)  # P = 0.25
    counts: Counter[int] = Counter()
    for number in range(200):
        chosen = selector.select(10, FakeSource(make_prompts(48)), replace(CTX, round=number))
        counts.update(p.index < 24 for p in chosen)
    share = counts[True] / counts.total()
    assert 0.15 < share < 0.25  # 0.25 / (0.25 + 1)
    first, second = (
        [p.index for p in selector.select(10, FakeSource(make_prompts(48)), replace(CTX, round=n))] for n in (0, 1)
    )
    assert first != second


def test_all_skipped_still_fills_and_probabilities_stay_in_bounds() -> None:
    selector = make()
    for index in range(48):
        visits(selector, *[EASY_R] * 300, index=index)
    assert len(selector.select(6, FakeSource(make_prompts(48)), CTX)) == 6
    for _ in range(100):
        visits(selector, EASY_R)
        selector.end_step(report(3))
    assert (selector.p_easy, selector.p_hard) == (0.05, 0.95)
    selector.end_step(report(3))  # a step without groups divides by nothing
