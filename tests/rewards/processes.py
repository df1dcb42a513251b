"""What the kernel says of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def stat(pid: int | str) -> list[str]:
    """State, parent and the rest of what the kernel says of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(parent: int | None = None) -> set[int]:
    """Processes whose parent is this one, zombies among them."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid for pid in pids if stat(pid)[1:2] == [str(parent or os.getpid())]}


def running(pid: int) -> bool:
    """Whether the process lives; a zombie, which its new parent has yet to reap, does not."""
    return stat(pid)[:1] not in ([], ["Z"])


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it becomes true."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()
