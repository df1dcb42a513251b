"""Reward functions that break every rule. What a completion says is done to the process that scores it."""

from __future__ import annotations

import ctypes
import datetime
import os
import signal
import sys
import time
from decimal import Decimal
from typing import Any


class Stop(BaseException):
    """No Exception, so that `except Exception` does not catch it."""


def obey(order: str) -> float | None:
    """The value of a completion, where it is worth one."""
    if order == "exit":
        sys.exit(0)
    elif order == "raise":
        raise KeyError("gold")
    elif order == "interrupt":
        raise KeyboardInterrupt
    elif order == "stop":
        raise Stop
    elif order == "os._exit":
        os._exit(0)
    elif order == "abort":
        os.abort()
    elif order == "crash":
        ctypes.string_at(0)
    elif order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "kill the parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)
    elif order == "sleep":
        time.sleep(3600)
    elif order == "stop the process":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif order == "eat":
        bytearray(2**40)
    elif order == "close":
        os.closerange(0, 256)
    elif order == "nan":
        return float("nan")
    elif order == "none":
        return None
    return float(len(order))


def batch(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """All of them in one call."""
    return [obey(completion) for completion in completions]


def single(prompt: str, completion: str, **columns: Any) -> float | None:
    """One at a time."""
    return obey(completion)


def told(prompt: str, completion: str, level: int, **columns: Any) -> float:
    """What a function of one completion sees."""
    assert (prompt, "prompt" in columns) == ("q", False)
    return level + len(completion)


def forks(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Returns twice."""
    return [float(os.fork() >= 0)] * len(completions)


def leaves_a_child(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The id of a child that sleeps on."""
    child = os.fork()
    if child == 0:
        time.sleep(3600)
    return [float(child)] * len(completions)


def who(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The worker's process, and the number of calls so far."""
    who.calls = getattr(who, "calls", 0) + 1  # type: ignore[attr-defined]
    return [float(os.getpid()), float(len(completions)), float(who.calls)]  # type: ignore[attr-defined]


def prints(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """On every way to the terminal, a lot, and it tries to read the orders too."""
    print("from print", flush=True)
    os.write(1, b"from os.write\x1b[2J\n")
    print("from stderr", file=sys.stderr)
    assert sys.stdin.read() == ""
    for _ in range(200):
        print("x" * 999, flush=True)
    return [1.0] * len(completions)


def numbers(prompts: list[str], completions: list[str], **columns: Any) -> Any:
    """Numbers of other libraries' types."""
    import numpy as np

    return iter([np.float32(0.1), np.int64(3), np.array([0.5]), True, Decimal("0.25"), None])


def given(prompts: list[str], completions: list[str], value: list[Any], **columns: Any) -> list[Any]:
    """The values of a column."""
    return value


def dates(prompts: list[str], completions: list[str], day: list[Any], **columns: Any) -> list[float]:
    """1 for the first day of 2026; the column with what no JSON holds is not among them."""
    assert "picture" not in columns
    return [float(each == datetime.date(2026, 1, 1)) for each in day]


def text(prompts: list[str], completions: list[str], **columns: Any) -> Any:
    """A text instead of a list."""
    return "1.0"


def endless(prompts: list[str], completions: list[str], **columns: Any) -> Any:
    """More values than memory holds."""
    while True:
        yield 1.0
