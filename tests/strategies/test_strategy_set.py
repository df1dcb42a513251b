"""A strategy that breaks its contract is named; nothing wrong gets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strategies.errors import StrategyError
from strategies.strategy_set import StrategySet
from strategies.types import Batch, Completion, Group, Prompt, RunInfo, StepContext
from tests.fakes import FakeSource, make_prompts

RUN = RunInfo(num_prompts=20, total_steps=4, prompts_per_step=2, num_generations=4)
CTX = StepContext(step=0, total_steps=4, epoch=0, round=0, seed=0)
PLAIN = {
    "selector": "full",
    "budget": "uniform",
    "filter": "keep-all",
    "weighting": "uniform",
    "temperature_schedule": "constant",
}


def make() -> StrategySet:
    return StrategySet(PLAIN, RUN)


def break_method(monkeypatch: pytest.MonkeyPatch, strategy: Any, method: str, answer: Any) -> None:
    monkeypatch.setattr(type(strategy), method, lambda self, *args: answer)


GROUP = Group(Prompt(0, "0"), tuple(Completion(1.0, True, 3, False, 1.0, 0.5) for _ in range(4)))
BATCH = Batch(np.zeros(2, int), np.zeros(2), np.zeros(2), np.zeros((2, 3)), np.ones((2, 3), bool))
PROMPTS = [Prompt(0, "0"), Prompt(1, "1")]


@pytest.mark.parametrize("answer", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature(monkeypatch: pytest.MonkeyPatch, answer: float) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.schedule, "temperature", answer)
    with pytest.raises(StrategyError, match="temperature_schedule 'constant'"):
        strategies.temperature(CTX)


def test_selection_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.selector, "select", PROMPTS[:1])
    with pytest.raises(StrategyError, match="'full' selected 1 prompts where 2"):
        strategies.select(2, FakeSource(make_prompts(20)), CTX)


@pytest.mark.parametrize("answer", [[4], [7, 1], [4, 5], [4, 3]])
def test_allocations(monkeypatch: pytest.MonkeyPatch, answer: list[int]) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.budget, "allocate", answer)
    with pytest.raises(StrategyError, match="budget 'uniform'"):
        strategies.allocate(PROMPTS, 8, CTX)


@pytest.mark.parametrize("answer", [np.ones(3, bool), np.ones(4), True])
def test_masks(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.filter, "keep", answer)
    with pytest.raises(StrategyError, match="filter 'keep-all' gave a mask"):
        strategies.keep(GROUP, CTX)


@pytest.mark.parametrize("answer", [np.ones(2), np.ones((2, 2)), -np.ones((2, 1)), np.full((2, 3), np.nan)])
def test_weights(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.weighting, "weigh", answer)
    with pytest.raises(StrategyError, match="weighting 'uniform' gave weights"):
        strategies.weigh(BATCH, CTX)


def test_state_of_another_strategy_is_refused() -> None:
    other = StrategySet(PLAIN | {"selector": "random"}, RUN)
    with pytest.raises(StrategyError, match="selector 'full', this run has 'random'"):
        other.load_state_dict(make().state_dict())
