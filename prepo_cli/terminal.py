"""Terminal output: progress and log lines on stderr, tables on stdout.

Names, ids and messages may come from anywhere. All text is shown as it is: on one line, without markup, without what
would steer the terminal, and without the credentials of addresses (`prepo_cli.text`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from shutil import get_terminal_size
from time import monotonic
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from prepo_cli.errors import NO_ROOM
from prepo_cli.text import plain

LINE_EVERY_SECONDS = 10.0
PIPED_COLUMNS = 100
GAP = 3
"""Columns between those of a table."""


def say(text: str) -> None:
    """Print one log line to stderr; if that is a file on a full disk, the line is lost and the run continues."""
    try:
        print(f"prepo: {plain(text)}", file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise


def line(text: str) -> None:
    """Print one line of results to stdout; a terminal shows it on several, broken between words."""
    if sys.stdout.isatty():
        results().print(plain(text))
    else:
        print(plain(text))


def results() -> Console:
    """A console on stdout for text that wraps: as wide as the terminal, or 100 columns where there is none."""
    width = get_terminal_size((PIPED_COLUMNS, 24)).columns
    return Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table under its title; all columns but the first are right-aligned.

    Columns that don't fit the terminal follow in a table below, beside the first one again. Where there is no terminal,
    lines are as long as the table.
    """
    heads = [plain(column) for column in columns]
    cells = [["" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, (head, *(row[i] for row in cells)))) + GAP for i, head in enumerate(heads)]
    console = Console(file=sys.stdout, width=results().width if sys.stdout.isatty() else sum(widths))
    line(title)
    for part in parts(widths, console.width):
        shown = ruled()
        for i in part:
            shown.add_column(Text(heads[i]), justify="right" if i else "left", overflow="fold")
        for row in cells:
            shown.add_row(*(Text(row[i]) for i in part))  # Text holds no markup
        console.print(shown)
        console.print()


def ruled(*heads: str, expand: bool = False) -> Table:
    """An empty table in the style of all: a line below its heads, and no frame."""
    return Table(*heads, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=expand)


def parts(widths: Sequence[int], available: int) -> list[list[int]]:
    """The columns of each table, of the widths that columns take, so that the tables fit; the first is in all of them.

    >>> parts([8, 10, 10, 10], 30), parts([8, 10, 10, 10], 100), parts([8], 5)
    ([[0, 1, 2], [0, 3]], [[0, 1, 2, 3]], [[0]])
    """
    found = [[0]]
    for i in range(1, len(widths)):
        if len(found[-1]) > 1 and sum(widths[j] for j in found[-1]) + widths[i] - GAP > available:
            found.append([0])
        found[-1].append(i)
    return found


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        rate = "" if not task.speed else f"{task.speed:,.{0 if task.speed >= 1000 else 1}f}"
        return Text(f"{rate} {task.fields['unit']}/s" if rate else "", style="cyan")


class _Left(ProgressColumn):
    """Time left."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{timedelta(seconds=round(seconds))} left", style="cyan")


class _Screen(Progress):
    """The bar in one line, and what there is to say below it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yields a function to call with the number of units just finished."""
    with _Bar(description, total, unit) as bar:
        yield bar.advance


class _Bar:
    """A rich progress bar on a terminal; elsewhere a plain line every few seconds, so that logs show the progress."""

    def __init__(self, description: str, total: int, unit: str, done: int = 0) -> None:
        self.description, self.total, self.unit = plain(description), total, unit
        self.done, self.done_at_start, self.started = done, done, monotonic()
        self.note = ""
        self._last_line_at, self._last_line_of = self.started, done
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = _Screen(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                *(kind(table_column=Column(no_wrap=True)) for kind in (_Rate, TimeElapsedColumn, _Left)),
                console=Console(stderr=True),
                expand=True,
            )
            self._task = self._bar.add_task(self.description, total=total, completed=done, unit=unit, note="")

    def __enter__(self) -> _Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None and self.done != self._last_line_of:
            self._line()

    def advance(self, units: int) -> None:
        """Count `units` more as done."""
        self.done += units
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif monotonic() - self._last_line_at >= LINE_EVERY_SECONDS:
            self._last_line_at = monotonic()
            self._line()

    def _line(self) -> None:
        self._last_line_of = self.done
        elapsed = max(monotonic() - self.started, 1e-9)
        rate = (self.done - self.done_at_start) / elapsed
        left = f", {(self.total - self.done) / rate:,.0f} s left" if rate and self.done < self.total else ""
        note = f"  {self.note}" if self.note else ""
        say(f"{self.description} {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s{left}{note}")


class TrainingDisplay:
    """The progress bar of a training run, with its key metrics."""

    def __init__(self, unit: str, done: float, total: float) -> None:
        self._bar = _Bar("train", round(total), unit, round(done))

    def __enter__(self) -> TrainingDisplay:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def step(self, metrics: dict[str, Any], done: float) -> None:
        """Show a step's metrics and how far the run is, in its unit."""
        self._bar.note = (
            f"reward {metrics['reward']:.3f}  zero-std {metrics['frac_reward_zero_std']:.0%}  "
            f"rollouts {metrics['cost/rollouts_total']:,}"
        )
        self._bar.advance(round(done) - self._bar.done)
