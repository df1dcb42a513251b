"""The prompt stream: complete epochs, new orders, exact resumption."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.data.stream import PromptStream
from prepo_cli.errors import UsageError
from strategies.types import Prompt


def stream(n: int = 10, seed: int = 0, missing: tuple[int, ...] = ()) -> PromptStream:
    return PromptStream(n, seed, lambda i: None if i in missing else Prompt(i, str(i)))


def indices(prompts: list[Prompt]) -> list[int]:
    return [p.index for p in prompts]


def test_an_epoch_has_each_prompt_once_and_the_next_another_order() -> None:
    source = stream()
    first = indices(source.take(10))
    source.begin_step()
    second = indices(source.take(10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert source.epoch == 2


def test_orders_depend_on_the_seed_alone() -> None:
    assert indices(stream().take(30)) == indices(stream().take(30))
    assert indices(stream().take(30)) != indices(stream(seed=1).take(30))


STEPS = st.lists(st.lists(st.integers(0, 25), max_size=3), max_size=6)
"""What each round of each step takes."""


@given(st.integers(1, 40), STEPS, st.lists(st.integers(0, 30), max_size=3))
def test_resumed_equals_uninterrupted(n: int, before: list[list[int]], after: list[int]) -> None:
    source = stream(n)
    for rounds in before:
        source.begin_step()
        for m in rounds:
            source.without_repeats(source.take(m)[::2])
    resumed = stream(n)
    resumed.load_state_dict(source.state_dict())
    assert resumed.epoch == source.epoch
    source.begin_step()
    for m in after:
        assert indices(resumed.take(m)) == indices(source.take(m))


@given(st.integers(1, 30), STEPS, st.sets(st.integers(0, 29), max_size=5))
def test_a_steps_prompts_are_distinct_while_there_are_enough_and_every_epoch_has_each_once(
    n: int, steps: list[list[int]], missing: set[int]
) -> None:
    usable = set(range(n)) - missing
    if not usable:
        return
    source = stream(n, missing=tuple(missing))
    everything = []
    for rounds in steps:
        source.begin_step()
        taken = []
        for m in rounds:
            found = source.without_repeats(source.take(m))
            taken += indices(found)
        everything += taken
        assert len(set(taken)) == min(len(taken), len(usable))
    if max(map(sum, steps), default=0) > len(usable):
        return  # such a step repeats prompts
    for start in range(0, len(everything) - len(usable) + 1, len(usable)):
        assert set(everything[start : start + len(usable)]) == usable


def test_a_step_that_has_taken_everything_takes_again_what_it_did_not_roll_out() -> None:
    source = stream(10)
    source.take(5)
    source.begin_step()
    rolled_out = source.without_repeats(source.take(10)[:6])
    epoch = source.epoch
    again = indices(source.take(3)) + indices(source.take(1))
    assert set(again) == set(range(10)) - set(indices(rolled_out))
    assert source.epoch == epoch
    assert len(source.take(9)) == 9


def test_repeats_are_replaced_while_there_are_other_prompts() -> None:
    source = stream(10)
    chosen = source.take(10)
    first = source.without_repeats([*chosen[:4], *chosen[:2]])
    assert first[:4] == chosen[:4]
    assert len(set(indices(first))) == 6
    second = source.without_repeats(first)
    assert set(indices(second[:4])) == set(range(10)) - set(indices(first))
    assert set(indices(second[4:])) <= set(indices(first))


def test_an_epoch_that_ends_with_a_step_leaves_the_next_order_alone() -> None:
    whole, cut = stream(10), stream(10)
    whole.take(10)
    for _ in range(5):
        cut.begin_step()
        cut.take(2)
    for source in (whole, cut):
        source.begin_step()
    assert indices(whole.take(10)) == indices(cut.take(10))


def test_unusable_prompts_are_counted_once() -> None:
    source = stream(6, missing=(1, 4))
    assert sorted(indices(source.take(4))) == [0, 2, 3, 5]
    for _ in range(5):
        source.take(4)
    assert source.left_out == 2


def test_no_usable_prompt_ends_with_an_error() -> None:
    with pytest.raises(UsageError, match="max_prompt_length"):
        stream(3, missing=(0, 1, 2)).take(1)


def test_state_of_another_training_set_is_refused() -> None:
    with pytest.raises(UsageError, match="10 prompts"):
        stream(11).load_state_dict(stream(10).state_dict())
