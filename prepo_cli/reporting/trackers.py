"""Copy every metric, some completions and the learning curve to TensorBoard, Weights & Biases or Trackio.

`metrics.jsonl` is the record of a run and a tracker is a copy, so a failing tracker is reported in one line and
disabled while training continues. Whatever tracker libraries print goes to stderr.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines
from prepo_cli.reporting.tracker_backends import BACKENDS, TrackedRun, Tracker, TrackerError
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say

COMPLETIONS = 8
"""Rows of a table of completions."""


def check_trackers(config: RunConfig) -> None:
    """Check, before anything is loaded, that the package of every requested tracker is installed.

    Raises:
        UsageError: a package is missing; the message says how to install it.
    """
    for name in config.reporting.report_to:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without an origin it is just a folder of that name
            raise UsageError(f"reporting.report_to: {name} is not installed; run: pip install 'prepo[{name}]'")


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the metrics except the step, booleans as 0 and 1."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if key != "step" and isinstance(value, Real | np.bool_) and math.isfinite(value)
    }


def evaluation_metrics(line: Mapping[str, Any], prefix: str = "eval/") -> dict[str, Any]:
    """An evaluation as flat metrics; an interval becomes `eval/avg@16`, `eval/avg@16_low` and `eval/avg@16_high`."""
    flat: dict[str, Any] = {}
    for key, value in line.items():
        if not isinstance(value, Mapping):
            flat[f"{prefix}{key}"] = value
        elif "value" in value:
            flat |= {f"{prefix}{key}": value["value"]}
            flat |= {f"{prefix}{key}_{end}": value[end] for end in ("low", "high") if end in value}
        else:
            flat |= evaluation_metrics(value, f"{prefix}{key}/")
    flat.pop("eval/step", None)
    return flat


def spread(total: int, count: int) -> list[int]:
    """Up to `count` of the numbers from 0 to `total` - 1, evenly spaced.

    >>> spread(9, 3), spread(2, 3), spread(0, 3)
    ([0, 4, 8], [0, 1], [])
    """
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


class Trackers:
    """All trackers of a run; use as a context manager, or call `close`."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        step: int,
        backends: Mapping[str, Callable[[TrackedRun], Tracker]] = BACKENDS,
    ) -> None:
        """Start the trackers of `reporting.report_to`.

        Args:
            config: the resolved configuration, which the trackers display.
            folder: the run folder; it must be writable.
            step: the step that the run resumes at; 0 for a new run.
            backends: the tracker class for each name.
        """
        reporting = config.reporting
        self._first_step, self._completions_steps = step, reporting.completions_steps
        self._running: dict[str, Tracker] = {}
        run_name = reporting.run_name or folder.resolve().name
        run = TrackedRun(folder, reporting.project, run_name, config.model_dump(mode="json"), step)
        for name in dict.fromkeys(reporting.report_to):
            with self._disable_on_failure(name):
                self._running[name] = backends[name](run)
                say(f"{name}: {self._running[name].note}")
        if step:
            for line in read_lines(folder / "evaluations.jsonl"):
                if line["step"] == step:  # the evaluation at the checkpoint itself, which TensorBoard has just purged
                    self.log_evaluation(line, step)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Send a step's metrics, unless the step precedes the resumed one and was therefore sent before."""
        values = scalars(metrics)
        if step < self._first_step or not values:
            return
        for name, tracker in list(self._running.items()):
            with self._disable_on_failure(name):
                tracker.log(values, step)

    def log_evaluation(self, line: Mapping[str, Any], step: int) -> None:
        """Send an evaluation as `eval/...`, each interval as three values."""
        self.log(evaluation_metrics(line), step)

    def log_completions(self, rollouts: Mapping[str, Sequence[Any]], step: int) -> None:
        """Send a few of a step's rollouts as a table, if one is due; the columns are those of `rollouts/*.parquet`."""
        if self._completions_steps is None or step % self._completions_steps or step < self._first_step:
            return
        rows = spread(max(map(len, rollouts.values()), default=0), COMPLETIONS)
        table = {name: [values[row] for row in rows] for name, values in rollouts.items()}
        for name, tracker in list(self._running.items()):
            with self._disable_on_failure(name):
                tracker.log_table("completions", table, step)

    def log_figure(self, draw: Callable[[], Path | None], step: int) -> None:
        """Send the picture that `draw` makes, if any; it is drawn only where there is a tracker."""
        picture = draw() if self._running else None
        if picture is None:
            return
        for name, tracker in list(self._running.items()):
            with self._disable_on_failure(name):
                tracker.log_image(picture.stem, picture, step)

    def close(self, failed: bool = False) -> None:
        """Flush and close all trackers; a second call does nothing."""
        for name, tracker in list(self._running.items()):
            with self._disable_on_failure(name):
                tracker.close(failed)
        self._running.clear()

    @contextmanager
    def _disable_on_failure(self, name: str) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):  # stdout is reserved for the run's results
                yield
        except TrackerError as error:
            self._running.pop(name, None)
            say(f"{name} failed and is disabled for the rest of the run: {error}; training continues")
