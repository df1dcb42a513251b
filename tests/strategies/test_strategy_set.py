"""A strategy that breaks its contract is named; nothing wrong gets through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from strategies import registry
from strategies.base import RolloutWeighting
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
    with pytest.raises(StrategyError, match="'full' selected 1 prompts instead of 2"):
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
    with pytest.raises(StrategyError, match=r"filter 'keep-all' returned a .* mask"):
        strategies.keep(GROUP, CTX)


@pytest.mark.parametrize("answer", [np.ones(2), np.ones((2, 2)), -np.ones((2, 1)), np.full((2, 3), np.nan)])
def test_weights(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    strategies = make()
    break_method(monkeypatch, strategies.weighting, "weigh", answer)
    with pytest.raises(StrategyError, match="weighting 'uniform' returned weights"):
        strategies.weigh(BATCH, CTX)


class Reads(RolloutWeighting):
    """Weighs by entropy without asking for it."""

    how = "entropy_NT"

    def weigh(self, batch: Batch, ctx: StepContext) -> Any:
        entropy = getattr(batch, self.how)
        return entropy[:, :1] if entropy is None or entropy.ndim == 2 else entropy[:, None]


class Asks(Reads):
    """Weighs by entropy and says so."""

    needs_entropy = True


@pytest.mark.parametrize("how", ["entropy_NT", "mean_entropy_N"])
def test_entropies_go_to_those_alone_that_ask_for_them(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(Reads, "how", how)
    batch = replace(BATCH, entropy_NT=np.ones((2, 3)))
    reads, asks = (StrategySet(PLAIN | {"weighting": f"{__name__}:{name}"}, RUN) for name in ("Reads", "Asks"))
    for given in (batch, replace(batch, entropy_NT=None)):  # also where the trainer happens to know them
        with pytest.raises(StrategyError, match="set needs_entropy = True on") as raised:
            reads.weigh(given, CTX)
        assert "\n" not in str(raised.value)
    assert asks.weigh(batch, CTX).tolist() == [[1.0], [1.0]]
    with pytest.raises(StrategyError, match="weighting 'Asks' needs entropies, which the batch lacks"):
        asks.weigh(replace(batch, entropy_NT=None), CTX)


def test_uniform_asks_for_no_entropy() -> None:
    asking = {cls.name for cls in registry.listed() if issubclass(cls, RolloutWeighting) and cls.needs_entropy}
    assert asking >= {"rel-entropy", "entropy-share", "high-entropy-tokens"}
    assert make().weigh(replace(BATCH, entropy_NT=None), CTX).tolist() == [[1.0], [1.0]]
    assert "uniform" not in asking


def test_state_of_another_strategy_is_refused() -> None:
    other = StrategySet(PLAIN | {"selector": "random"}, RUN)
    with pytest.raises(StrategyError, match="selector 'full', this run has 'random'"):
        other.load_state_dict(make().state_dict())
