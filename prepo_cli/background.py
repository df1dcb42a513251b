"""Work in a thread beside the caller's: what it needs next, and what it need not wait for.

Either pays where the thread mostly waits or computes without Python's lock, as tokenizers, writers and torch do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
_END: Any = object()


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """The items in order, the next `depth` of them computed in a thread while the caller uses the last one.

    What an item raises is raised where that item would come. Closing the generator waits for the item that is being
    computed, and the rest is left alone; a caller that may stop early closes it (`contextlib.closing`).

    >>> list(ahead(map(abs, [-1, 2, -3])))
    [1, 2, 3]
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        waiting = deque(thread.submit(next, source, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, source, _END))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


@contextmanager
def behind(call: Callable[P, object]) -> Iterator[Callable[P, None]]:
    """A context that yields `call` as a function that returns at once, and runs it in a thread, call after call.

    A call waits for the one before, and raises what that raised; the end of the block does so for the last one. If the
    block raises, its own error stands, after the call that is running has ended.
    """
    running: list[Future[object]] = []

    def later(*arguments: P.args, **more: P.kwargs) -> None:
        while running:
            running.pop().result()
        running.append(thread.submit(call, *arguments, **more))

    with ThreadPoolExecutor(1, thread_name_prefix="behind") as thread:
        yield later
        while running:
            running.pop().result()
