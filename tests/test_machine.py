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
    kept = [torch.ones({megabytes} * 2**18) for _ in range(12)]
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([work() for _ in range(3)][-1])
"""


def faults(keep: bool, megabytes: int, **environment: str) -> int:
    """Pages that the system hands out to a process that allocates as much for the third time."""
    code = FAULTS.format(keep=keep, megabytes=megabytes)
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's malloc")
def test_freed_memory_is_used_again() -> None:
    pages = 12 * 20 * 2**20 / resource.getpagesize()
    assert faults(keep=True, megabytes=20) < 0.2 * pages
    assert faults(keep=False, megabytes=20) > 0.8 * pages


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's malloc")
def test_the_users_own_settings_have_precedence() -> None:
    assert faults(keep=True, megabytes=20, MALLOC_MMAP_THRESHOLD_="1000000") > 10_000
