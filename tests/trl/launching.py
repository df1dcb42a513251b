"""Starts tests/trl/script.py, in one process or several, and reads what it wrote."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tests.trl.script import Job, main

OUTPUT = "output.txt"
ROOT = Path(__file__).parents[2]


def alone(folder: Path, strategies: Any, **job: Any) -> int | None:
    """Train in a process forked from this one, which has imported everything; returns its exit status."""
    process = get_context("fork").Process(target=main, args=(Job(str(folder), strategies, **job),))
    process.start()
    process.join()
    return process.exitcode


def together(folder: Path, jobs: Sequence[Job], processes: int = 2) -> int:
    """Train one job after the other, in several processes; returns the exit status."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            str(ROOT / "tests" / "trl" / "script.py"),
            json.dumps([asdict(job) for job in jobs]),
        ],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / OUTPUT).write_text(done.stdout + done.stderr)
    return done.returncode


def found(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Figures, weights and state of a process that ended."""
    result: dict[str, Any] = torch.load(folder / f"rank-{rank}.pt", weights_only=False)
    return result


def rows(folder: Path, rank: int = 0) -> list[Any]:
    """Step, round, rows, counts and temperature of every call for rollouts."""
    return [json.loads(line) for line in (folder / f"rows-{rank}.jsonl").read_text().splitlines()]


def same_weights(one: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0) -> bool:
    """Whether two processes ended with the same weights."""
    a, b = one["weights"], other["weights"]
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


def same_state(one: Any, other: Any) -> bool:
    """Whether two states are equal but for the time taken."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one if k != "seconds")
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else bool(one == other)
