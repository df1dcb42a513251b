"""How many candidates are drawn, and the selectors that look at none of their properties."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.registry import create
from strategies.selectors.candidates import CandidateParams
from strategies.types import StepContext
from tests.fakes import FakeSource, make_prompts, make_run

RUN = make_run()


def context(step: int, round_: int = 0, seed: int = 7) -> StepContext:
    return StepContext(step, 1000, 0, round_, seed)


@pytest.mark.parametrize(("kept", "ratio", "candidates"), [(256, 0.2, 1280), (2, 0.2, 10), (7, 1.0, 7), (3, 0.4, 8)])
def test_candidate_counts(kept: int, ratio: float, candidates: int) -> None:
    assert CandidateParams(ratio=ratio).candidates(kept, make_run(10**6)) == candidates


@given(st.integers(1, 5000), st.integers(1, 100))
def test_candidates_are_the_least_that_keep_the_ratio(kept: int, percent: int) -> None:
    exact = Fraction(kept * 100, percent)
    assert CandidateParams(ratio=percent / 100).candidates(kept, make_run(10**6)) == -(
        -exact.numerator // exact.denominator
    )


def test_full_is_the_stream_and_an_epoch_sees_each_prompt_once() -> None:
    prompts = make_prompts(12)
    source = FakeSource(prompts)
    selector = create("selector", "full", RUN)
    seen = [p for step in range(4) for p in selector.select(3, source, context(step))]
    assert seen == FakeSource(prompts).take(12)
    assert sorted(p.index for p in seen) == list(range(12))
    assert source.epoch == 1


def test_random_keeps_distinct_candidates_and_uses_up_the_rest() -> None:
    prompts = make_prompts(60)
    source = FakeSource(prompts)
    chosen = create("selector", "random", RUN).select(6, source, context(0))
    candidates = FakeSource(prompts).take(30)
    assert source.position == 30
    assert len(set(chosen)) == 6
    assert [p for p in candidates if p in chosen] == chosen


def test_random_depends_on_seed_step_and_round_alone() -> None:
    def chosen(**place: int) -> list[int]:
        selector = create("selector", "random", RUN)
        selector.select(6, FakeSource(make_prompts()), context(5))
        return [p.index for p in selector.select(6, FakeSource(make_prompts()), context(**({"step": 0} | place)))]

    assert chosen() == chosen()
    assert len({tuple(chosen()), tuple(chosen(step=1)), tuple(chosen(round_=1)), tuple(chosen(seed=8))}) == 4


def test_random_is_fair() -> None:
    selector = create("selector", "random:ratio=0.5", RUN)
    counts: Counter[int] = Counter()
    for step in range(400):
        counts.update(p.index for p in selector.select(4, FakeSource(make_prompts(8)), context(step)))
    assert len(counts) == 8
    assert all(abs(count - 200) < 5 * (400 * 0.25) ** 0.5 for count in counts.values())
