"""A file system that fills up while a process writes: just before an operation, all of it is taken but for some bytes.

Audit hooks see Python's file operations, as in striking.py. Libraries that write by themselves, such as safetensors,
are met by filling it before the operation that comes first.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from tests.chaos.striking import act_at

BALLAST = "ballast"


def fill_at(disk: str, place: str, free: int = 0, files: bool = False) -> None:
    """Fill the disk before this process's first operation on a path that contains `place`; see `striking.act_at`.

    Args:
        disk: the folder that it is mounted at.
        free: bytes that stay free.
        files: leave no room for any more files or folders instead, but all for bytes.
    """
    act_at(1, [place], lambda: fill(Path(disk), free, files))


def fill(disk: Path, free: int = 0, files: bool = False) -> None:
    """Take all but `free` bytes, or all numbers of files."""
    (disk / BALLAST).mkdir(exist_ok=True)
    if not files:
        room = os.statvfs(disk)
        size = max(0, room.f_bavail * room.f_frsize - free)
        if size:
            with (disk / BALLAST / "bytes").open("ab") as ballast:
                os.posix_fallocate(ballast.fileno(), ballast.tell(), size)
        return
    try:
        for number in count():
            (disk / BALLAST / str(number)).touch()
    except OSError:
        return


def empty(disk: Path) -> None:
    """Free what `fill` took."""
    if (disk / BALLAST).exists():
        for path in (disk / BALLAST).iterdir():
            path.unlink()
        (disk / BALLAST).rmdir()
