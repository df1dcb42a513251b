"""The signals that ask a run to save and stop: interrupts, the end of a job or session, and a scheduler's warning."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INSISTENT: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
"""A second one of these stops at once; a hang-up is often sent twice, by the kernel and by the shell."""


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have all of them call `handler`, except a hang-up that nohup has the process ignore.

    Off the main thread, where signals can't be set, nothing changes.
    """
    before: dict[int, Any] = {}
    try:
        for number in STOP:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def ignore() -> None:
    """Ignore all of them, in a process that another one stops."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)


def leave_terminal() -> None:
    """After a hang-up: write to nowhere where a terminal is gone, since every write to it would fail."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
