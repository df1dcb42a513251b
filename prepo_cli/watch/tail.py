"""A JSONL file that another process writes, read as it grows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from prepo_cli.comparison.jsonl import read_objects

T = TypeVar("T")


class Tail(Generic[T]):
    """What `parse` makes of each line; every refresh reads only what was added since the last one.

    An incomplete last line is left for the next refresh. A line that isn't JSON, or that `parse` can't use, is skipped.
    A file that was replaced, as by a resumed run, is read from the start; if it is missing, its gzipped copy is read.
    """

    def __init__(self, path: Path, parse: Callable[[dict[str, Any]], T]) -> None:
        self.path, self._parse = path, parse
        self.rows: list[T] = []
        self._inode, self._end = -1, 0

    def refresh(self) -> None:
        """Read on to the end of the file."""
        try:
            content = self._added()
        except FileNotFoundError:
            self._inode, self._end = -1, 0
            self.rows = [self._parse(line) for line in read_objects(self.path, growing=True)]
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._end += len(whole)
        for line in whole.splitlines():
            try:
                self.rows.append(self._parse(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue

    def _added(self) -> bytes:
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._end:
                self.rows, self._inode, self._end = [], status.st_ino, 0
            file.seek(self._end)
            return file.read()
