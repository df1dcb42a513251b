"""Where in the user's code something happened, as `file.py:12`."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Sequence
from inspect import unwrap
from pathlib import Path

FRAME = re.compile(r'\s*File "(.+)", line (\d+) in ')
OURS = tuple(str(Path(__file__).parents[1] / name) + os.sep for name in ("strategies", "prepo_cli"))
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def of_error(error: BaseException, function: Callable[..., object] | None = None) -> str:
    """The innermost line of the user's code that an error passed through; else where the function starts; else ''."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return _first_own(reversed(frames)) or (of_function(function) if function else "")


def of_function(function: Callable[..., object]) -> str:
    """Where a function starts, if it is written in Python."""
    code = getattr(unwrap(function), "__code__", None)
    return shown(code.co_filename, code.co_firstlineno) if code else ""


def of_trace(lines: Sequence[str]) -> str:
    """The innermost line of the user's code in a trace by faulthandler, which names the innermost call first.

    >>> of_trace(["Current thread 0x1 (most recent call first):", '  File "own.py", line 7 in f'])
    'own.py:7'
    """
    frames = [(found[1], int(found[2])) for line in lines if (found := FRAME.match(line))]
    return _first_own(frames) or next((shown(*frame) for frame in frames if not _inner(frame[0])), "")


def shown(file: str, line: int) -> str:
    """A place with its path as short as possible: relative if the file lies under the current folder."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def _first_own(frames: Iterable[tuple[str, int]]) -> str:
    """The first frame that is neither ours nor a library's; code in an installed package has no such frame."""
    return next((shown(*frame) for frame in frames if not _inner(frame[0]) and not frame[0].startswith(LIBRARIES)), "")


def _inner(file: str) -> bool:
    return file.startswith((*OURS, "<"))
