"""What every registered strategy must keep, whoever wrote it: the test runs over the registry itself."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from prepo_cli.metrics import described, of_strategies
from strategies import registry
from strategies.base import SLOTS, Strategy
from strategies.strategy_set import resolve_slots
from tests.fakes import FakeRun, Record, make_run, through_disk

STEPS = 20  # some epochs of the fake training set, so that rules at an epoch's end take part
EVERY = [pytest.param(cls, id=f"{cls.slot}-{cls.name}") for cls in registry.listed()]
NAMES = {slot: [cls.name for cls in registry.listed() if cls.slot == slot] for slot in SLOTS}
every_strategy = pytest.mark.parametrize("cls", EVERY)


def run_of(cls: type[Strategy]) -> FakeRun:
    return FakeRun({cls.slot: cls.name})


@pytest.fixture(scope="module")
def histories() -> dict[type[Strategy], tuple[FakeRun, list[Record]]]:
    """Each strategy's uninterrupted run, made once."""
    made = {}
    for cls in registry.listed():
        run = run_of(cls)
        made[cls] = run, run.steps(STEPS)
    return made


@every_strategy
def test_is_described(cls: type[Strategy]) -> None:
    assert registry.describe(cls).endswith(".")
    assert registry.describe(cls) != registry.describe(SLOTS[cls.slot])
    for name, field in cls.Params.model_fields.items():
        assert field.description, f"parameter {name} says nothing about itself"
        assert not field.is_required(), f"parameter {name} has no default"
    assert cls.paper is None or cls.paper[:4].isdigit()


@every_strategy
def test_parameters_are_frozen_and_closed(cls: type[Strategy]) -> None:
    assert cls.Params.model_config.get("frozen")
    with pytest.raises(registry.StrategyError, match="unknown parameter 'nonsense'"):
        registry.create(cls.slot, f"{cls.name}:nonsense=1", make_run())


@every_strategy
def test_selected_prompts_are_exact(cls: type[Strategy], histories: Any) -> None:
    run, records = histories[cls]
    known = set(run.all_prompts)
    for record in records:
        assert record.asked[0] == run.info.prompts_per_step
        assert [len(prompts) for prompts in record.prompts] == record.asked
        assert all(set(prompts) <= known for prompts in record.prompts)


@every_strategy
def test_budgets_sum_and_keep_the_minimum(cls: type[Strategy], histories: Any) -> None:
    run, records = histories[cls]
    budget = run.strategies.budget
    tops_up = type(budget).top_up is not SLOTS["budget"].top_up
    for record in records:
        for size, counts, further in zip(record.asked, record.counts, record.top_ups, strict=True):
            total = size * run.info.num_generations
            assert all(isinstance(count, (int, np.integer)) for count in counts)
            assert len(counts) == len(further) == size
            assert min(counts) >= budget.minimum >= 1
            assert min(further) >= 0
            assert sum(counts) + sum(further) == total or (tops_up and sum(counts) + sum(further) < total)


@every_strategy
def test_masks_fit_their_groups(cls: type[Strategy], histories: Any) -> None:
    for record in histories[cls][1]:
        for group, mask_N in zip(record.groups, record.masks, strict=True):
            assert mask_N.shape == (len(group.completions),)
            assert mask_N.dtype == np.bool_


@every_strategy
def test_weights_are_finite_and_not_negative(cls: type[Strategy], histories: Any) -> None:
    weighed = [record for record in histories[cls][1] if record.batch is not None]
    assert weighed
    for record in weighed:
        n, t = record.batch.mask_NT.shape
        assert record.weights.shape in ((n, 1), (n, t))
        assert np.isfinite(record.weights).all()
        assert (record.weights >= 0).all()


@every_strategy
def test_temperature_is_positive_and_metrics_are_numbers(cls: type[Strategy], histories: Any) -> None:
    for record in histories[cls][1]:
        assert np.isfinite(record.temperature)
        assert record.temperature > 0
        for key, value in record.metrics.items():
            assert isinstance(value, (int, float)), key
            assert np.isfinite(value), key


@every_strategy
def test_every_metric_is_described(cls: type[Strategy], histories: Any) -> None:
    logged = {key for record in histories[cls][1] for key in record.metrics}
    known = [metric for found in of_strategies().values() for metric in found]
    assert {key for key in logged if not described(key, known)} == set()
    unseen = [
        metric.name
        for metric in of_strategies().get((cls.slot, cls.name), [])
        if not fnmatch.filter(logged, metric.name)
    ]
    assert unseen == []


@every_strategy
def test_the_same_seed_gives_the_same_run(cls: type[Strategy], histories: Any) -> None:
    np.random.seed(3)  # a strategy that reads the global stream is found out
    again = run_of(cls)
    assert_equal(again.steps(STEPS), histories[cls][1])
    assert_equal(again.state_dict(), histories[cls][0].state_dict())


@every_strategy
def test_only_strategies_that_read_progress_depend_on_the_runs_length(cls: type[Strategy], histories: Any) -> None:
    """Companions count too: selector e3 brings a temperature schedule that anneals."""
    slots = resolve_slots({cls.slot: cls.name})
    reads = any(registry.reads_progress(slot, text) for slot, text in slots.items())
    longer = FakeRun({cls.slot: cls.name}, replace(make_run(), total_steps=2 * STEPS)).steps(STEPS)

    def decided(records: list[Record]) -> list[Any]:
        return [[r.prompts, r.counts, r.top_ups, r.masks, r.weights, r.temperature, r.metrics] for r in records]

    if reads:
        with pytest.raises(AssertionError):
            assert_equal(decided(longer), decided(histories[cls][1]))
    else:
        assert_equal(decided(longer), decided(histories[cls][1]))


@every_strategy
def test_state_comes_back_from_disk(cls: type[Strategy], histories: Any) -> None:
    state = histories[cls][0].state_dict()
    restored = run_of(cls)
    restored.load_state_dict(through_disk(state))
    assert_equal(restored.state_dict(), state)


@every_strategy
@pytest.mark.parametrize("interrupted_at", [1, 9])
def test_resumed_equals_uninterrupted(cls: type[Strategy], interrupted_at: int, histories: Any) -> None:
    first = run_of(cls)
    first.steps(interrupted_at)
    saved = through_disk(first.state_dict())
    resumed = run_of(cls)
    resumed.load_state_dict(saved)
    assert_equal(resumed.steps(STEPS - interrupted_at), histories[cls][1][interrupted_at:])
    assert_equal(resumed.state_dict(), histories[cls][0].state_dict())


@every_strategy
def test_foreign_state_is_refused(cls: type[Strategy]) -> None:
    strategy = registry.create(cls.slot, cls.name, make_run())
    with pytest.raises((ValueError, KeyError, TypeError)):
        strategy.load_state_dict({"left over from another strategy": 1})


@pytest.mark.parametrize("selector", NAMES["selector"])
def test_every_selector_works_with_every_budget_and_weighting(selector: str) -> None:
    for budget, weighting in product(NAMES["budget"], NAMES["weighting"]):
        run = FakeRun({"selector": selector, "budget": budget, "weighting": weighting})
        for record in run.steps(2):
            assert [len(prompts) for prompts in record.prompts] == record.asked
            assert sum(map(sum, record.counts)) <= run.info.num_generations * sum(record.asked)
            assert record.weights is None or np.isfinite(record.weights).all()


@pytest.mark.parametrize("selector", NAMES["selector"])
def test_every_selector_chains(selector: str) -> None:
    last = "ppl-low" if selector == "ppl-schedule" else "ppl-schedule"
    text = f"{selector}+{last}:ratio=0.5"
    whole = FakeRun({"selector": text}).steps(6)
    first = FakeRun({"selector": text})
    first.steps(3)
    resumed = FakeRun({"selector": text})
    resumed.load_state_dict(through_disk(first.state_dict()))
    assert_equal(resumed.steps(3), whole[3:])
    assert all(len(prompts) == asked for r in whole for prompts, asked in zip(r.prompts, r.asked, strict=True))


def assert_equal(left: Any, right: Any) -> None:
    """Equality of records and states down to the last bit, arrays by dtype too."""
    if isinstance(left, Record):
        left, right = vars(left), vars(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    elif isinstance(left, np.ndarray):
        assert isinstance(right, np.ndarray)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif hasattr(left, "__slots__") and hasattr(left, "mask_NT"):
        for name in left.__slots__:
            assert_equal(getattr(left, name), getattr(right, name))
    else:
        assert left == right


def test_a_selector_does_not_chain_with_itself() -> None:
    with pytest.raises(registry.StrategyError, match="with itself"):
        registry.create("selector", "random+random", make_run())
