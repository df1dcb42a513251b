"""The selectors beyond the seeds: each rule against a naive computation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import registry
from strategies.errors import StrategyError
from strategies.pass_rate_model import varied
from strategies.selectors.bandit import Bandit, mean_absolute_advantage
from strategies.selectors.calibrated import Calibrated
from strategies.selectors.difficulty import Difficulty
from strategies.selectors.mopps import Mopps
from strategies.types import Prompt, StepContext, StepReport
from tests.fakes import FakeProbe, FakeSource, make_group, make_prompts, make_run, pass_rate

CTX = StepContext(0, 20, 0, 0, 7, probe=FakeProbe())
REPORT = StepReport(0, 20, 0, 0, 1.0, 0.5, 0.5, True, 0, 0)
PROMPTS = make_prompts(48)


def make(text: str, **changes):
    return registry.create("selector", text, make_run(**changes))


def test_learnability_keeps_the_highest_p_times_one_minus_p_and_unseen_first() -> None:
    selector = make("learnability:ratio=0.5")
    outcomes = {0: [1, 1, 1, 1], 1: [1, 0, 1, 0], 2: [1, 0, 0, 0], 3: [0, 0, 0, 0]}
    for index, rewards in outcomes.items():
        selector.observe([make_group(PROMPTS[index], rewards)], CTX)
    source = FakeSource(PROMPTS[:5])
    order = [p.index for p in FakeSource(PROMPTS[:5]).take(5)]
    value = {i: sum(r) / 4 * (1 - sum(r) / 4) for i, r in outcomes.items()} | {4: math.inf}
    expected = sorted(order, key=lambda i: -value[i])[:3]
    assert [p.index for p in make_exact(selector, 3, source)] == expected


def make_exact(selector, n: int, source: FakeSource) -> list[Prompt]:
    """Select n from all five prompts of the source."""
    selector.params = selector.params.model_copy(update={"ratio": n / 5})
    return selector.select(n, source, CTX)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=10), st.floats(0, 1))
def test_mopps_posterior_equals_the_recursion_and_stays_proper(rights: list[int], lam: float) -> None:
    selector = make(f"mopps:decay={lam},prior_a=1.5,prior_b=0.5")
    assert isinstance(selector, Mopps)
    a, b = 1.5, 0.5
    for right in rights:
        selector.observe([make_group(PROMPTS[3], [1] * right + [0] * (8 - right))], CTX)
        a, b = lam * a + (1 - lam) * 1.5 + right, lam * b + (1 - lam) * 0.5 + 8 - right
    assert (selector.a_P[3], selector.b_P[3]) == pytest.approx((a, b), rel=1e-5)
    assert selector.a_P.min() > 0
    assert selector.b_P.min() > 0


def test_mopps_prefers_prompts_of_middle_pass_rate() -> None:
    selector = make("mopps:ratio=0.25,decay=1")
    for _ in range(30):
        for prompt, right in zip(PROMPTS[:3], (0, 4, 8), strict=True):
            selector.observe([make_group(prompt, [1] * right + [0] * (8 - right))], CTX)
    chosen = selector.select(1, FakeSource([PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[0]]), CTX)
    assert chosen[0].index == 1


def test_difficulty_target_follows_the_reward() -> None:
    selector = make("difficulty")
    assert isinstance(selector, Difficulty)
    selector.observe([make_group(PROMPTS[0], [1, 1, 1, 0])], CTX)
    selector.end_step(REPORT)
    assert selector.target == pytest.approx(0.5 * math.tanh(2.0 * 0.25))
    selector.observe([make_group(PROMPTS[0], [0, 0])], CTX)
    selector.end_step(REPORT)
    assert selector.target == 0.0


def test_difficulty_keeps_the_nearest() -> None:
    selector = make("difficulty:start=0.5,ratio=0.25")
    chosen = selector.select(12, FakeSource(PROMPTS), CTX)
    distance = sorted(abs(p.difficulty - 2.0) for p in PROMPTS)[11]
    assert all(abs(p.difficulty - 2.0) <= distance for p in chosen)
    with pytest.raises(StrategyError, match="column 'difficulty'"):
        make("difficulty", columns=frozenset())


def test_bandit_q_and_probabilities() -> None:
    selector = make("bandit:alpha=0.25,tau=0.5")
    assert isinstance(selector, Bandit)
    groups = [make_group(PROMPTS[0], [1, 0]), make_group(PROMPTS[4], [1, 1]), make_group(PROMPTS[1], [0, 0])]
    selector.observe(groups, CTX)
    selector.end_step(REPORT)
    learned = 0.5 / (math.sqrt(0.5) + 1e-6)  # |advantage| of rewards 1, 0
    assert mean_absolute_advantage(groups[0]) == pytest.approx(learned)
    assert selector.q["family-0"] == pytest.approx(0.25 * learned / 2)
    assert selector.q["family-1"] == 0.0
    p = selector.probabilities(["family-0", "family-1"])
    assert p[0] / p[1] == pytest.approx(math.exp(selector.q["family-0"] / 0.5))


def test_bandit_draws_the_better_category_more_often_and_each_candidate_once() -> None:
    selector = make("bandit:tau=0.05,ratio=0.25")
    selector.q = {"family-0": 0.5}
    chosen = selector.select(12, FakeSource(PROMPTS), CTX)
    assert len({p.index for p in chosen}) == 12
    assert all(p.source == "family-0" for p in chosen)
    everything = selector.select(12, FakeSource(PROMPTS[:12]), StepContext(1, 20, 0, 0, 7))
    assert len(everything) == 12


def test_calibrated_learns_that_perplexity_tells_the_pass_rate() -> None:
    selector = make("calibrated:ratio=0.25")
    assert isinstance(selector, Calibrated)
    source, rolled = FakeSource(PROMPTS), []
    for step in range(12):
        ctx = StepContext(step, 20, 0, 0, 7, probe=FakeProbe())
        chosen = selector.select(6, source, ctx)
        rewards = [np.random.default_rng([step, p.index]).random(8) < pass_rate(p) for p in chosen]
        selector.observe([make_group(p, r.astype(float).tolist()) for p, r in zip(chosen, rewards, strict=True)], ctx)
        selector.end_step(REPORT)
        rolled.append(np.mean([varied(np.array(pass_rate(p)), 8) for p in chosen]))
    assert selector.model.mean_F[1] < 0  # higher perplexity, lower pass rate
    everything = float(np.mean([varied(np.array(pass_rate(p)), 8) for p in PROMPTS]))
    assert np.mean(rolled[-4:]) > everything + 0.05


def test_calibrated_gives_up_a_prompt_that_one_visit_finds_dead() -> None:
    """Easy by its perplexity, yet never solved: with a low strength of the prior one visit is enough."""
    selector = make("calibrated:ratio=1,strength=0.5")
    (prompt,) = selector.select(1, FakeSource(PROMPTS[:1]), CTX)
    before = worth(selector, prompt)
    selector.observe([make_group(prompt, [0.0] * 8)], CTX)
    selector.end_step(REPORT)
    assert worth(selector, prompt) < before / 2
    assert worth(selector, prompt) < worth(selector, PROMPTS[1])


def worth(selector: Calibrated, prompt: Prompt) -> float:
    log_ppl = np.log(FakeProbe().perplexity([prompt]))
    return float(selector.differ([prompt], log_ppl, np.random.default_rng(0))[0])


def test_calibrated_scores_a_perplexity_again_only_when_it_is_old() -> None:
    asked: list[list[int]] = []

    class Counting(FakeProbe):
        def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> np.ndarray:
            asked.append([prompt.index for prompt in prompts])
            return super().perplexity(prompts, scope)

    selector = make("calibrated:ratio=0.5,rescore=5")
    for step in (0, 4, 5):
        selector.select(6, FakeSource(PROMPTS[:12]), StepContext(step, 20, 0, 0, 7, probe=Counting()))
    assert [sorted(indices) for indices in asked] == [list(range(12)), list(range(12))]


@pytest.mark.parametrize("ppl", [0.0, -1.0, math.nan, math.inf])
def test_calibrated_refuses_a_perplexity_that_is_none(ppl: float) -> None:
    selector = make("calibrated:source=stored,ratio=0.5")
    prompts = [*PROMPTS[:11], Prompt(11, "odd", ppl=ppl)]
    with pytest.raises(StrategyError, match="prompt 'odd' has perplexity"):
        selector.select(6, FakeSource(prompts), CTX)
    assert not selector.model.log_ppl.state.any()


def test_stored_perplexity_is_asked_for_by_name() -> None:
    with pytest.raises(StrategyError, match="prepo score-ppl"):
        make("calibrated:source=stored", columns=frozenset())


def test_calibrated_counts_recent_visits_and_lets_them_fade() -> None:
    selector = make("calibrated:half_life=4")
    group = make_group(PROMPTS[0], [1.0, 0.0])
    for step in (0, 2):
        selector.observe([group], StepContext(step, 20, 0, 0, 7, probe=FakeProbe()))
    visits = [float(selector.recent_visits(PROMPTS[:1], step)[0]) for step in (2, 6)]
    expected = 1 + 0.5 ** (2 / 4)
    assert visits == pytest.approx([expected, expected / 2], rel=1e-6)
    assert selector.recent_visits(PROMPTS[1:2], 6).tolist() == [0.0]


def test_calibrated_turns_to_others_before_it_visits_again() -> None:
    """Of two prompts that are alike, the one that was visited has to wait."""
    alike = [Prompt(0, "a", num_tokens=9), Prompt(1, "b", num_tokens=9)]

    class Same(FakeProbe):
        def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> np.ndarray:
            return np.full(len(prompts), 3.0)

    selector = make("calibrated:ratio=0.5,strength=8", num_prompts=2)
    ctx = StepContext(0, 20, 0, 0, 7, probe=Same())
    (first,) = selector.select(1, FakeSource(alike), ctx)
    selector.observe([make_group(first, [1.0, 0.0] * 4)], ctx)
    (second,) = selector.select(1, FakeSource(alike), StepContext(1, 20, 0, 0, 7, probe=Same()))
    assert selector.right_P[first.index] == 4
    assert second.index != first.index
