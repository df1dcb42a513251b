"""Work in a thread: the same results in the same order, errors where they belong, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.background import ahead, behind

SECONDS = 20.0
"""A wait that lasts this long has failed."""


def counted(seen: list[int], last: int = 100) -> Iterator[int]:
    for number in range(last):
        seen.append(number)
        yield number


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("ahead", "behind"))]


@given(st.lists(st.integers()), st.integers(1, 4))
def test_items_come_in_order(items: list[int], depth: int) -> None:
    assert list(ahead(items, depth)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_the_next_items_and_no_more_are_computed_while_one_is_used(depth: int) -> None:
    seen: list[int] = []
    last = Event()

    def source() -> Iterator[int]:
        for number in counted(seen):
            if number == depth:
                last.set()
            yield number

    with closing(ahead(source(), depth)) as items:
        assert next(items) == 0
        assert last.wait(SECONDS)
        assert seen == list(range(depth + 1))
    assert len(seen) <= depth + 2
    assert workers() == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, StopIteration])
def test_an_error_comes_where_its_item_would(kind: type[BaseException]) -> None:
    def half(number: int) -> int:
        if number == 2:
            raise kind("the second")
        return number

    items = ahead(half(number) for number in range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(RuntimeError if kind is StopIteration else kind):
        next(items)
    assert list(items) == []
    assert workers() == []


def test_a_caller_that_fails_leaves_the_rest_alone() -> None:
    seen: list[int] = []

    def use() -> None:
        with closing(ahead(counted(seen))) as items:
            for number in items:
                _ = 1 // (2 - number)

    with pytest.raises(ZeroDivisionError):
        use()
    assert seen in ([0, 1, 2], [0, 1, 2, 3])
    assert workers() == []


def test_calls_run_one_after_another_beside_the_block() -> None:
    done: list[int] = []
    go = Event()

    def call(number: int) -> None:
        assert go.wait(SECONDS)
        done.append(number)

    with behind(call) as later:
        later(0)
        assert done == []
        go.set()
        for number in range(1, 5):
            later(number)
            assert done[:number] == list(range(number))
    assert done == list(range(5))
    assert workers() == []


@pytest.mark.parametrize("more", [0, 1])
def test_what_a_call_raises_is_raised_by_the_next_one_or_at_the_end(more: int) -> None:
    done: list[int] = []

    def call(number: int) -> None:
        done.append(10 // number)

    def use() -> None:
        with behind(call) as later:
            for number in [5, 0, 2][: 2 + more]:
                later(number)

    with pytest.raises(ZeroDivisionError):
        use()
    assert done == [2]
    assert workers() == []


def test_the_error_of_the_block_stands_and_the_running_call_ends_first() -> None:
    started, done = Event(), list[str]()

    def call() -> None:
        started.set()
        done.append("written")

    def use() -> None:
        with behind(call) as later:
            later()
            assert started.wait(SECONDS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert done == ["written"]
    assert workers() == []
