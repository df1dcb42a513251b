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


@given(st.integers(1, 40), st.lists(st.integers(0, 25), max_size=6), st.integers(0, 30))
def test_resumed_equals_uninterrupted(n: int, before: list[int], after: int) -> None:
    source = stream(n)
    for m in before:
        source.take(m)
    resumed = stream(n)
    resumed.load_state_dict(source.state_dict())
    assert resumed.epoch == source.epoch == sum(before) // n
    assert indices(resumed.take(after)) == indices(source.take(after))


def test_unusable_prompts_are_counted() -> None:
    source = stream(6, missing=(1, 4))
    assert sorted(indices(source.take(4))) == [0, 2, 3, 5]
    source.take(4)
    assert source.left_out >= 2


def test_no_usable_prompt_ends_with_an_error() -> None:
    with pytest.raises(UsageError, match="max_prompt_length"):
        stream(3, missing=(0, 1, 2)).take(1)


def test_state_of_another_training_set_is_refused() -> None:
    with pytest.raises(UsageError, match="10 prompts"):
        stream(11).load_state_dict(stream(10).state_dict())
