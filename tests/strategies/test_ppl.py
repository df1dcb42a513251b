"""PREPO's window and its ablations: the goldens of the method, a naive sort, and what holds for every input."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.registry import create
from strategies.selectors.ppl import PACING, window_start
from strategies.types import FloatArray, Prompt, StepContext
from tests.fakes import FakeProbe, FakeSource, make_prompts, make_run

RUN = make_run()


def context(step: int, total: int = 20, probe: FakeProbe | None = None) -> StepContext:
    return StepContext(step, total, 0, 0, 7, probe=probe or FakeProbe())


class GivenProbe(FakeProbe):
    """Perplexities by prompt index."""

    def __init__(self, ppl_by_index: dict[int, float]) -> None:
        super().__init__()
        self.ppl_by_index, self.scopes = ppl_by_index, []

    def perplexity(self, prompts: list[Prompt], scope: str = "question") -> FloatArray:
        self.scopes.append(scope)
        return np.array([self.ppl_by_index[p.index] for p in prompts])


@pytest.mark.parametrize(
    ("candidates", "kept", "rho", "start"), [(10, 2, 0, 0), (10, 2, 0.5, 4), (1280, 256, 0.3, 307), (5, 5, 0.9, 0)]
)
def test_window_goldens(candidates: int, kept: int, rho: float, start: int) -> None:
    assert window_start(candidates, kept, rho) == start


@given(st.integers(1, 3000), st.data(), st.integers(1, 5000))
def test_window_is_in_range_monotone_and_exact(candidates: int, data: st.DataObject, total: int) -> None:
    kept = data.draw(st.integers(1, candidates))
    step = data.draw(st.integers(0, total - 1))
    start = window_start(candidates, kept, context(step, total).progress)
    assert start == math.floor(Fraction(step, total) * (candidates - kept))
    assert 0 <= start <= candidates - kept
    assert start <= window_start(candidates, kept, context(step + 1, total).progress) <= candidates - kept


@given(st.floats(0, 1), st.floats(0, 1))
def test_every_pacing_is_monotone_from_0_to_1(low: float, high: float) -> None:
    low, high = sorted((low, high))
    for pace in PACING.values():
        assert 0 <= pace(low) <= pace(high) <= 1
        assert (pace(0.0), pace(1.0)) == (0, 1)
    assert PACING["quadratic"](low) <= low <= PACING["sqrt"](low)


def test_pacing_moves_the_window() -> None:
    prompts = make_prompts(100)
    ranks = {p.index: rank for rank, p in enumerate(sorted(prompts, key=lambda p: p.ppl))}
    first = {}
    for pacing in PACING:
        selector = create("selector", f"ppl-schedule:ratio=0.1,source=stored,pacing={pacing}", make_run(100))
        chosen = selector.select(10, FakeSource(prompts), context(10, 20))
        first[pacing] = min(ranks[p.index] for p in chosen)
    assert first == {"linear": 45, "quadratic": 22, "sqrt": math.floor(math.sqrt(0.5) * 90)}


@given(
    st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 50.0]), min_size=10, max_size=60),
    st.integers(0, 19),
    st.sampled_from(["ppl-schedule", "ppl-low", "ppl-high"]),
)
def test_the_kept_are_a_window_of_the_stable_sort(ppls: list[float], step: int, name: str) -> None:
    prompts = [Prompt(i, f"p{i}") for i in range(len(ppls))]
    kept = len(ppls) // 5
    probe = GivenProbe(dict(enumerate(ppls)))
    source = FakeSource(prompts)
    # a whole epoch of candidates, in the stream's shuffled order
    selector = create("selector", f"{name}:ratio={kept / len(ppls)!r}", RUN)
    chosen = selector.select(kept, source, context(step, probe=probe))
    assert source.position == len(ppls)
    ranked = sorted(prompts, key=lambda p: (ppls[p.index], p.index))
    room = len(ppls) - kept
    start = {"ppl-schedule": step * room // 20, "ppl-low": 0, "ppl-high": room}[name]
    assert chosen == ranked[start : start + kept]
    assert selector.metrics()["window_start"] == start
    assert selector.metrics()["ppl_kept_mean"] == pytest.approx(np.mean([ppls[p.index] for p in chosen]))
    assert selector.metrics()["ppl_candidates_max"] == max(ppls)


def test_scope_reaches_the_probe() -> None:
    probe = GivenProbe({p.index: 1.0 for p in make_prompts()})
    for scope in ("question", "prompt"):
        create("selector", f"ppl-low:scope={scope}", RUN).select(2, FakeSource(make_prompts()), context(0, probe=probe))
    assert probe.scopes == ["question", "prompt"]


def test_stored_perplexities_ask_no_policy() -> None:
    probe = FakeProbe()
    prompts = make_prompts()
    chosen = create("selector", "ppl-low:source=stored", RUN).select(4, FakeSource(prompts), context(0, probe=probe))
    assert probe.asked == 0
    assert [p.ppl for p in chosen] == sorted(p.ppl for p in FakeSource(prompts).take(20))[:4]


def test_stored_needs_the_column_and_a_value() -> None:
    with pytest.raises(ValueError, match="needs a column 'ppl'; write it with: prepo score-ppl"):
        create("selector", "ppl-low:source=stored", replace(RUN, columns=frozenset()))
    selector = create("selector", "ppl-low:source=stored,ratio=1", RUN)
    with pytest.raises(ValueError, match="prompt 'b' has no stored 'ppl'"):
        selector.select(2, FakeSource([Prompt(0, "a", ppl=1.0), Prompt(1, "b")]), context(0))
