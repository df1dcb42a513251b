"""What a process does with memory that it frees."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from prepo_cli import machine
if {keep}:
    machine.keep_freed_memory()
def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(20 * 2**18) for _ in range(12)]
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([work() for _ in range(3)][-1])
"""
PAGES = 12 * 20 * 2**20 / resource.getpagesize()
"""What the work takes."""


def faults(keep: bool, **environment: str) -> int:
    """Pages that the system hands out to a process that allocates as much for the third time."""
    code = FAULTS.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's malloc")
def test_freed_memory_is_used_again() -> None:
    assert faults(keep=True) < 0.2 * PAGES


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's malloc")
@pytest.mark.parametrize("keep", [False, True])
def test_the_users_own_settings_have_precedence(keep: bool) -> None:
    """Without any, what malloc gives back differs from one start to the next."""
    assert faults(keep=keep, MALLOC_MMAP_THRESHOLD_="1000000") > 0.8 * PAGES
