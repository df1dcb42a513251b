"""What a process may use of the machine it runs on."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls its settings."""
LARGEST_KEPT = 2**25
"""Bytes of the largest block that glibc's malloc can keep once it is freed."""


def cores() -> int:
    """Cores that this process may use: in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of memory that can be allocated without swapping: in a container often fewer than the machine has."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except FileNotFoundError:  # no container, or none with such limits
        return free
    if limit == "max":
        return free
    return max(0, min(free, int(limit) - used + int(statistics["inactive_file"])))


def keep_freed_memory() -> None:
    """Let the process keep memory that it frees for its next tensors; with another C library than glibc, nothing.

    Otherwise every forward and backward pass of a model on the CPU would ask for its activations' memory anew, and the
    system would zero it page by page, which takes about a tenth of the time. Settings in `MALLOC_...` have precedence.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
