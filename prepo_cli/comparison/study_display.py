"""The runs of a study while they are trained: a live table on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from prepo_cli.comparison.plan import PlannedRun
from prepo_cli.files import read_lines
from prepo_cli.sections import COST_LIMITS
from prepo_cli.terminal import ruled, say

LINE_EVERY_SECONDS = 30.0
TAIL_BYTES = 16_384
FEWEST_ROWS, FRAME_ROWS = 5, 6
"""Runs that are always shown, and lines of a terminal that the rest of the table takes."""


class StudyDisplay:
    """Shows which runs are waiting, active, finished or failed, how far they are, and the time left for all."""

    def __init__(self, runs: Sequence[PlannedRun], jobs: int, console: Console | None = None) -> None:
        self.runs, self.jobs, self.started = runs, jobs, monotonic()
        self.share = {run.folder: share_done(run) for run in runs}
        self.share_at_start = sum(self.share.values())
        self._accuracy = {run.folder: _accuracy(run) for run in runs}
        self._last_line_at = monotonic()
        self._live: Live | None = None
        console = console or Console(stderr=True)
        if console.is_terminal:
            self._live = Live(console=console, refresh_per_second=2)

    def __enter__(self) -> StudyDisplay:
        finished = sum(run.finished for run in self.runs)
        say(f"{len(self.runs)} runs, {finished} of them finished; up to {self.jobs} at a time")
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif error is None:
            self._line([])

    def update(self, active: Mapping[Path, float], failed: Collection[Path]) -> None:
        """Show the present state; `active` gives the seconds so far of each active run's folder."""
        for run in self.runs:
            if run.folder in active or (run.finished and self.share[run.folder] < 1):
                self.share[run.folder] = share_done(run)
                self._accuracy[run.folder] = _accuracy(run)
        if self._live is not None:
            self._live.update(self._table(active, failed, self._live.console.height))
        elif monotonic() - self._last_line_at >= LINE_EVERY_SECONDS:
            self._last_line_at = monotonic()
            self._line([run for run in self.runs if run.folder in active])

    def seconds_left(self) -> float | None:
        """Time left at the rate so far, all runs taken as equally long; None before there is a rate."""
        done = sum(self.share.values()) - self.share_at_start
        elapsed = monotonic() - self.started
        return (len(self.runs) - sum(self.share.values())) * elapsed / done if done > 0.01 else None

    def _line(self, active: Sequence[PlannedRun]) -> None:
        finished = sum(run.finished for run in self.runs)
        now = ", ".join(f"{run.folder.name} {self.share[run.folder]:.0%}" for run in active)
        say(f"{finished}/{len(self.runs)} runs finished{f'; {now}' if now else ''}{_left(self.seconds_left())}")

    def _table(self, active: Mapping[Path, float], failed: Collection[Path], height: int) -> Group:
        finished = sum(run.finished for run in self.runs)
        table = ruled()
        table.add_column("run", overflow="fold")
        for name in ("state", "done", "accuracy", "time"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        for run in self._shown(active, failed, max(FEWEST_ROWS, height - FRAME_ROWS)):
            state = _state(run, active, failed)
            seconds = active.get(run.folder)
            table.add_row(
                run.folder.name,
                state,
                f"{self.share[run.folder]:.0%}" if self.share[run.folder] else "",
                self._accuracy.get(run.folder, ""),
                _clock(seconds) if seconds is not None else "",
            )
        return Group(f"{finished} of {len(self.runs)} runs finished{_left(self.seconds_left())}", table)

    def _shown(self, active: Mapping[Path, float], failed: Collection[Path], room: int) -> list[PlannedRun]:
        """As many runs as there is room for: active and failed ones first, then those next to the active ones."""
        order = {"active": 0, "failed": 1, "finished": 2, "waiting": 2}
        states = [_state(run, active, failed) for run in self.runs]
        here = next((i for i, state in enumerate(states) if state == "active"), len(states))
        ranked = sorted(range(len(states)), key=lambda i: (order[states[i]], abs(i - here)))
        return [self.runs[i] for i in sorted(ranked[:room])]


def share_done(run: PlannedRun) -> float:
    """How far a run is, from the last line of its metrics."""
    if run.finished:
        return 1.0
    path = run.folder / "metrics.jsonl"
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")
    whole = lines[-2] if len(lines) > 1 else b""  # the last one may be half written
    try:
        return share_of(json.loads(whole), run.config.training.model_dump())
    except ValueError:
        return 0.0


def share_of(line: Mapping[str, float], training: Mapping[str, Any]) -> float:
    """How far a run was at a line of its metrics, by the limit of its `training` settings that is closest.

    >>> share_of({"step": 4, "cost/rollouts_total": 900}, {"total_steps": 10, "max_rollouts": 1000})
    0.9
    """
    limits = {name: training.get(name) for name in ("total_steps", *COST_LIMITS)}
    done = {
        "total_steps": line["step"] + 1,
        "max_rollouts": line.get("cost/rollouts_total", 0),
        "max_tokens": line.get("cost/tokens_generated", 0) + line.get("cost/tokens_scored", 0),
        "max_seconds": line.get("cost/seconds", 0),
    }
    return min(1.0, max((done[name] / limit for name, limit in limits.items() if limit is not None), default=0.0))


def _accuracy(run: PlannedRun) -> str:
    path = run.folder / "evaluations.jsonl"
    lines = read_lines(path) if path.is_file() else []
    return f"{lines[-1][f'avg@{run.config.evaluation.num_samples}']['value']:.3f}" if lines else ""


def _state(run: PlannedRun, active: Mapping[Path, float], failed: Collection[Path]) -> str:
    if run.folder in active:
        return "active"
    if run.folder in failed:
        return "failed"
    return "finished" if run.finished else "waiting"


def _left(seconds: float | None) -> str:
    return "" if seconds is None or seconds < 1 else f", {_clock(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
