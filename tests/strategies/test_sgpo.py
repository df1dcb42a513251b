"""sGPO: filter, curriculum and group sizes against naive rules, and what holds for every input."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from strategies.budgets.inverse_pass_rate import scaled_sizes
from strategies.errors import StrategyError
from strategies.registry import create
from strategies.selectors.sgpo import MOST_TAKEN, Sgpo
from strategies.strategy_set import StrategySet, resolve_slots
from strategies.types import Prompt, StepContext
from tests.fakes import FakeSource, make_prompts, make_run

RATES = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.875, 1.0])


def context(step: int, total: int = 20) -> StepContext:
    return StepContext(step, total, 0, 0, 7)


def prompts_of(rates: list[float]) -> list[Prompt]:
    return [Prompt(i, f"p{i}", pass_rate=rate) for i, rate in enumerate(rates)]


def selector(text: str = "", num_prompts: int = 48) -> Sgpo:
    made = create("selector", f"sgpo{text}", make_run(num_prompts))
    assert isinstance(made, Sgpo)
    return made


@given(st.lists(RATES, min_size=10, max_size=60), st.integers(0, 19), st.floats(0, 1))
def test_the_kept_are_a_window_of_what_passes_sorted_from_easy_to_hard(
    rates: list[float], step: int, share: float
) -> None:
    sgpo = selector(f":ratio=0.001,unsolvable_share={share!r}", len(rates))  # a whole epoch of candidates
    prompts, kept = prompts_of(rates), len(rates) // 5
    stream = FakeSource(prompts).take(len(rates))
    passing = [p for p in stream if p.pass_rate != 1 and (p.pass_rate or sgpo.passes([p])[0])]
    assume(len(passing) >= kept)
    chosen = sgpo.select(kept, FakeSource(prompts), context(step))
    ranked = sorted(passing, key=lambda p: -(p.pass_rate or 0.0))
    start = step * (len(ranked) - kept) // 20
    assert chosen == ranked[start : start + kept]
    metrics = sgpo.metrics()
    assert metrics["passed_share"] == pytest.approx(len(passing) / len(rates))
    assert metrics["pass_rate_kept_mean"] == pytest.approx(np.mean([p.pass_rate for p in chosen]))


def test_easy_prompts_come_first_and_hard_ones_last() -> None:
    prompts = prompts_of([i % 9 / 8 for i in range(90)])
    rates = [
        sum(p.pass_rate or 0.0 for p in selector(num_prompts=90).select(6, FakeSource(prompts), context(step))) / 6
        for step in range(20)
    ]
    assert rates[0] >= 0.75
    assert rates[-1] <= 0.25
    assert np.corrcoef(np.arange(20), rates)[0, 1] < -0.9


def test_unsolvable_prompts_are_sampled_once_for_the_whole_run() -> None:
    prompts = prompts_of([0.0] * 4000)
    passes = selector(":unsolvable_share=0.25", 4000).passes(prompts)
    assert passes.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(passes, selector(":unsolvable_share=0.25", 4000).passes(prompts))
    more = selector(":unsolvable_share=0.5", 4000).passes(prompts)
    assert (more >= passes).all()
    other = create("selector", "sgpo:unsolvable_share=0.25", make_run(4000, seed=8))
    assert isinstance(other, Sgpo)
    assert (other.passes(prompts) != passes).any()
    assert not selector(":unsolvable_share=0", 4000).passes(prompts).any()
    assert selector(":unsolvable_share=1", 4000).passes(prompts).all()


def test_the_threshold_of_trivial_prompts() -> None:
    prompts = prompts_of([0.5, 0.75, 0.875, 1.0])
    assert selector(":trivial=0.875").passes(prompts).tolist() == [True, True, False, False]
    assert selector().passes(prompts).tolist() == [True, True, True, False]


def test_dropped_prompts_fill_a_batch_that_would_stay_short_unsolvable_ones_first() -> None:
    prompts = prompts_of([1.0] * 10 + [0.0] * 4 + [0.5] * 2)
    chosen = selector(":unsolvable_share=0", 16).select(8, FakeSource(prompts), context(0))
    assert sorted(p.pass_rate or 0.0 for p in chosen) == [0.0] * 4 + [0.5] * 2 + [1.0] * 2
    assert len({p.index for p in chosen}) == 8


def test_a_search_among_dead_prompts_ends() -> None:
    source = FakeSource(prompts_of([1.0] * 5000))
    assert len(selector(num_prompts=5000).select(6, source, context(0))) == 6
    assert source.position == MOST_TAKEN * 30
    small = FakeSource(prompts_of([1.0] * 48))
    selector().select(6, small, context(0))
    assert small.position == 48


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=12), st.integers(2, 5), st.integers(0, 30), st.data())
def test_sizes_sum_and_keep_limits_and_order(weights: list[float], low: int, room: int, data: st.DataObject) -> None:
    weight_n, high = np.array(weights), low + room
    total = data.draw(st.integers(low * len(weights), high * len(weights)))
    sizes = scaled_sizes(weight_n, total, low, high)
    assert sizes.sum() == total
    assert low <= sizes.min() <= sizes.max() <= high
    for i, j in itertools.permutations(range(len(weights)), 2):
        assert weights[i] <= weights[j] or sizes[i] >= sizes[j] - 1
    # Proportional: some factor, the same for all, gives every size but for the rounding to a neighbor.
    inside = (sizes > low) & (sizes < high)
    if inside.any():
        assert ((sizes[inside] - 1) / weight_n[inside]).max() <= ((sizes[inside] + 1) / weight_n[inside]).min()


@pytest.mark.parametrize(
    ("rates", "limits", "sizes"),
    [
        ([1.0, 0.5, 0.25, 0.125], "", [2, 4, 9, 17]),  # in the ratio 1 : 2 : 4 : 8, 32 in all
        ([0.5, 0.5, 0.5, 0.5], "", [8, 8, 8, 8]),
        ([0.0, 1.0, 1.0, 1.0], "", [26, 2, 2, 2]),  # never solved: 1 of 32, above what the limits leave
        ([0.0, 1.0, 1.0, 1.0], ":maximum=11", [11, 7, 7, 7]),
        ([0.25, 1.0, 1.0, 1.0], ":minimum=6", [14, 6, 6, 6]),
    ],
)
def test_group_sizes_are_inverse_to_pass_rates(rates: list[float], limits: str, sizes: list[int]) -> None:
    budget = create("budget", f"inverse-pass-rate{limits}", make_run())
    assert budget.allocate(prompts_of(rates), 32, context(0)) == sizes  # type: ignore[attr-defined]


def test_impossible_sizes_and_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sizes of 2 to 4 can't sum to 13"):
        scaled_sizes(np.ones(3), 13, 2, 4)
    for limits in ("minimum=9", "maximum=7"):
        with pytest.raises(StrategyError, match="num_generations=8, the mean number of rollouts"):
            create("budget", f"inverse-pass-rate:{limits}", make_run())


@pytest.mark.parametrize(("slot", "name"), [("selector", "sgpo"), ("budget", "inverse-pass-rate")])
def test_pass_rates_are_needed(slot: str, name: str) -> None:
    with pytest.raises(StrategyError, match=r"needs a column 'pass_rate'.*prepo score-passrate DATASET"):
        create(slot, name, replace(make_run(), columns=frozenset({"ppl"})))
    strategies = StrategySet({slot: name} | ({"budget": "uniform"} if slot == "selector" else {}), make_run())
    for rate, fault in ((None, "no value"), (float("nan"), "no value"), (1.5, "1.5, which is not between 0 and 1,")):
        prompts = [Prompt(0, "a", pass_rate=0.5), Prompt(1, "b", pass_rate=rate)]
        with pytest.raises(StrategyError, match=f"{slot} '{name}': prompt 'b' has {fault} in column 'pass_rate'"):
            strategies.allocate(strategies.select(2, FakeSource(prompts), context(0)), 16, context(0))


def test_the_selector_brings_its_budget_and_says_that_it_reads_pass_rates() -> None:
    assert resolve_slots({"selector": "sgpo"})["budget"] == "inverse-pass-rate"
    assert resolve_slots({"selector": "sgpo"}, {"budget": "e3"})["budget"] == "e3"
    for slots, reads in (
        ({"selector": "sgpo", "budget": "uniform"}, True),
        ({"selector": "greso+sgpo", "budget": "uniform"}, True),
        ({"budget": "inverse-pass-rate"}, True),
        ({"selector": "greso+random"}, False),
    ):
        assert StrategySet(slots, make_run()).reads_pass_rates is reads


def test_a_run_needs_no_state() -> None:
    sgpo = selector()
    sgpo.select(6, FakeSource(make_prompts()), context(3))
    assert sgpo.state_dict() == {}
