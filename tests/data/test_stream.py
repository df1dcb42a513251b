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
    first, second = indices(source.take(10)), indices(source.take(10))
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
            source.mark_rolled_out(source.take(m)[::2])
    resumed = stream(n)
    resumed.load_state_dict(source.state_dict())
    assert resumed.epoch == source.epoch == sum(map(sum, before)) // n
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
        taken = [index for m in rounds for index in indices(source.take(m))]
        everything += taken
        assert len(set(taken[: len(usable)])) == len(taken[: len(usable)])
        assert set(taken) == usable or len(set(taken)) == len(taken)
    for start in range(0, len(everything) - len(usable) + 1, len(usable)):
        assert set(everything[start : start + len(usable)]) == usable


def test_prompts_rolled_out_in_a_step_come_last_when_it_takes_all_again() -> None:
    source = stream(10)
    source.take(5)
    source.begin_step()
    rolled_out = source.take(8)[:3]
    source.mark_rolled_out(rolled_out)
    again = indices(source.take(7))  # 2 that were not taken yet, 2 that were taken only, then those rolled out
    assert set(again[:4]).isdisjoint(indices(rolled_out))
    assert set(again[4:]) == set(indices(rolled_out))


def test_fewer_rather_than_a_prompt_twice_in_a_step_but_never_less_than_asked() -> None:
    source = stream(10, missing=(3,))
    source.take(4)
    source.begin_step()
    assert sorted(indices(source.take(50, least=2))) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(source.take(50, least=2)) == 2
    source.begin_step()
    assert len(source.take(50, least=20)) == 20


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
