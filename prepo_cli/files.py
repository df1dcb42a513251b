"""Atomic writes, which leave files complete or absent even after a kill, and JSONL files that grow line by line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prepo_cli.errors import NO_ROOM, RunError

PARTIAL = ".partial-"
"""Prefix of files that are being written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path`, or is deleted after an error.

    It keeps the suffix, which some writers choose the format by. For a writer that needs an open file:

        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    Raises:
        RunError: the disk is full.
    """
    temporary = path.with_name(PARTIAL + path.name)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            reason = os.strerror(error.errno)
            raise RunError(
                f"can't write {path} ({reason}); finished work is kept: free some space, then run the command again"
            ) from error
        raise
    flush(path.parent)


def atomic_write(path: Path, text: str) -> None:
    """Write all of the text or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def atomic_write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, with null for NaN and infinities."""
    atomic_write(path, json.dumps(finite(content), indent=2) + "\n")


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a JSONL file and flush it to disk; raises RunError if that fails, without a part of the line."""
    content = (json.dumps(finite(line)) + "\n").encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        cure = "free some space" if error.errno in NO_ROOM else "fix that"
        raise RunError(f"can't write to {path} ({error.strerror}); {cure}, then continue with --resume") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file of a run that can be read; none if there is no such file."""
    return readable_lines(path)[0]


def readable_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of a JSONL file of a run that can be read, and the numbers of those that can't.

    A line is an object with its `step`. A last line that a kill has left incomplete, without an end, is neither.
    """
    if not path.is_file():
        return [], []
    found, damaged = [], []
    *whole, last = path.read_bytes().split(b"\n")
    for number, content in enumerate([*whole, last] if last else whole, 1):
        try:
            line = json.loads(content.decode())
            sound = isinstance(line["step"], int)
        except (ValueError, TypeError, KeyError, RecursionError):
            sound = False
        if sound:
            found.append(line)
        elif number <= len(whole):
            damaged.append(number)
    return found, damaged


def finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON cannot represent.

    >>> finite({"kl": float("nan"), "rewards": (1.0, float("inf"))})
    {'kl': None, 'rewards': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
