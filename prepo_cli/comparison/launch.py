"""Train the missing runs of a study: several at once, each in its own process.

A run that was interrupted is resumed from its checkpoint, a finished one is left alone, and one that fails stops no
other. Each process gets its share of the cores and, where there are any, of the GPUs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.filesize import decimal

from prepo_cli import signals
from prepo_cli.comparison.plan import LOGS, PlannedRun
from prepo_cli.comparison.study_display import StudyDisplay
from prepo_cli.config import to_yaml
from prepo_cli.engines import ENGINES
from prepo_cli.errors import FULL, FULL_BYTES, RunError, UsageError
from prepo_cli.files import atomic_write
from prepo_cli.machine import cores
from prepo_cli.terminal import say

POLL_SECONDS = 0.5
THREADS = "OMP_NUM_THREADS"
"""Left as it is where the user has set it."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG: the signal that Linux sends a process when its parent dies."""


@dataclass
class Job:
    """A run in its process; `slot` numbers the processes that are active at a time."""

    run: PlannedRun
    slot: int
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=monotonic)


def train_missing(runs: Sequence[PlannedRun], jobs: int) -> None:
    """Train or resume all unfinished runs, `jobs` at a time.

    Raises:
        UsageError: several jobs would share a server. RunError: runs failed; the others are finished.
        KeyboardInterrupt: all have saved what they had.
    """
    waiting = [run for run in runs if run.extends or not run.finished]
    if not waiting:
        return
    jobs = min(jobs, len(waiting))
    if jobs > 1 and any(ENGINES[run.config.engine.name].load().serves_all for run in waiting):
        raise UsageError("a vLLM server serves one run's weights; use --jobs 1, or another --engine")
    devices = _devices() if jobs > 1 else []
    active: list[Job] = []
    failed: dict[Path, str] = {}
    with StudyDisplay(runs, jobs) as display, _forwarding_signals(active) as stopped:
        while active or (waiting and not stopped()):
            while waiting and len(active) < jobs and not stopped():
                slot = next(slot for slot in range(jobs) if slot not in {job.slot for job in active})
                active.append(_start(waiting.pop(0), slot, environment(slot, jobs, cores(), devices)))
                if stopped():  # while it was started, so that nothing was passed on to it
                    active[-1].process.send_signal(signal.SIGTERM)
            sleep(POLL_SECONDS)
            for job in [job for job in active if job.process.poll() is not None]:
                active.remove(job)
                if job.process.returncode != 0 and not stopped():
                    failed[job.run.folder] = reason(job.process.returncode, job.run.log)
                    say(f"{job.run.folder.name} failed: {failed[job.run.folder]}")
            display.update({job.run.folder: monotonic() - job.started for job in active}, failed)
    if stopped():
        raise KeyboardInterrupt("stopped after the current steps; run the same command to resume")
    if failed:
        folder, why = next(iter(failed.items()))
        raise RunError(
            f"{len(failed)} of {len(runs)} runs failed; {folder.name}: {why}; run the same command "
            f"to retry, and find the logs in {folder.parent / LOGS}"
        )


def reason(code: int, log: Path) -> str:
    """Why a run failed, by its exit code and the last line of its log."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}{', possibly out of memory' if code == -9 else ''}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.removeprefix("prepo: ") for line in reversed(lines) if line.strip()), "no message")
    free = shutil.disk_usage(log.parent).free
    return said if free >= FULL_BYTES else f"{said} ({FULL}: {decimal(free)} free for its log)"


def environment(slot: int, jobs: int, cores: int, devices: Sequence[str]) -> dict[str, str]:
    """What a process gets of the machine: cores / jobs threads and, where there are GPUs, its own share of them.

    >>> environment(1, 2, cores=16, devices=["0", "1", "2", "3"])
    {'OMP_NUM_THREADS': '8', 'CUDA_VISIBLE_DEVICES': '2,3'}
    >>> environment(2, 3, cores=2, devices=["0"])
    {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '0'}
    """
    shared = {THREADS: str(max(1, cores // jobs))}
    if devices:
        each = len(devices) // jobs
        own = devices[slot * each : (slot + 1) * each] if each else [devices[slot % len(devices)]]
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return shared


def _start(run: PlannedRun, slot: int, shared: Mapping[str, str]) -> Job:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(run.settings, to_yaml(run.config))
    command = [sys.executable, "-P", "-m", "prepo_cli", "train", "--config", str(run.settings), "--json"]
    if run.is_begun:
        command.append("--resume" if run.resumable else "--overwrite")
    shared = {name: value for name, value in shared.items() if name != THREADS or name not in os.environ}
    with run.log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=os.environ | shared | run.config.engine.secret_environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Job(run, slot, process)


def _die_with_parent() -> None:
    """Runs that nobody waits for would race with those of the command's next call."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _devices() -> list[str]:
    """The GPUs this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _forwarding_signals(active: Sequence[Job]) -> Iterator[Callable[[], bool]]:
    """Pass interrupts on to all runs, which save and stop; yields whether there was one."""
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            signals.leave_terminal()
        for job in active:
            job.process.send_signal(signal.SIGTERM if number in signals.INSISTENT else number)

    try:
        with signals.handled(forward):
            yield lambda: bool(received)
    finally:
        for job in active:  # an error of our own
            job.process.terminate()
