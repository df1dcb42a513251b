"""`prepo train --profile`: a trace of the first steps, and the entries of it that cost most.

The trace is torch's, in the format of Chrome's tracing pages and of Perfetto; the phases of a step are entries in it.
The first step is left out, which sets up what the others use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from prepo_cli.errors import RunError
from prepo_cli.files import atomic_path
from prepo_cli.terminal import ruled, say

TRACE = "profile.json.gz"
RECORDED_STEPS = 3
SHOWN = 10


@contextmanager
def profiled(folder: Path | None, total_steps: int | None) -> Iterator[Callable[[], None]]:
    """A context that records steps, and yields what to call after each; without a folder for the trace, nothing.

    Args:
        folder: where the trace is written.
        total_steps: of the run, if known; a single one is recorded itself.
    """
    if folder is None:
        yield lambda: None
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "3")  # else torch's profiler prints when it starts and stops
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=RECORDED_STEPS, repeat=1) if total_steps != 1 else None
    with torch.profiler.profile(schedule=schedule, on_trace_ready=lambda found: _report(found, folder)) as profiler:
        yield profiler.step


def _report(profiler: Any, folder: Path) -> None:
    """Write the trace, unless the disk is full, and print where the time went."""
    try:
        with atomic_path(folder / TRACE) as temporary:
            profiler.export_chrome_trace(str(temporary))
        say(f"wrote a profile to {folder / TRACE}; open it at ui.perfetto.dev")
    except RunError as error:
        say(str(error))
    entries = profiler.key_averages()
    on_gpu = any(entry.self_device_time_total for entry in entries)

    def seconds(entry: Any) -> float:
        return float(entry.self_device_time_total if on_gpu else entry.self_cpu_time_total) / 1e6

    total = sum(map(seconds, entries))
    table = ruled("entry", "calls", "seconds", "share")
    for column in table.columns[1:]:
        column.justify = "right"
    for entry in sorted(entries, key=seconds, reverse=True)[:SHOWN]:
        table.add_row(entry.key, f"{entry.count:,}", f"{seconds(entry):.3f}", f"{seconds(entry) / total:.1%}")
    Console(stderr=True).print(table)
