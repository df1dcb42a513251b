"""Where a run's numbers go: the run folder's files, the trackers and the terminal."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.trackers import Trackers
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import TrainingDisplay
from prepo_cli.training.limits import Limits
from prepo_cli.training.progress import Progress


class RunLog:
    """Open for the duration of the run; `with log.display_steps():` shows the progress bar."""

    def __init__(self, config: RunConfig, folder: RunFolder, limits: Limits, progress: Progress) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._limits, self._progress = limits, progress
        self._display = TrainingDisplay(*limits.shown(progress))
        self._figures = config.reporting.figures
        self._trackers = Trackers(config, folder.path, progress.step)

    def __enter__(self) -> RunLog:
        self._stack.enter_context(self._trackers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def display_steps(self) -> TrainingDisplay:
        """The progress bar over steps, as a context manager."""
        return self._display

    def step(self, metrics: dict[str, Any], rollouts: dict[str, list[Any]] | None) -> None:
        """Log a step's metrics, and its rollouts if they are recorded."""
        if rollouts is not None:
            self._folder.write_rollouts(metrics["step"], rollouts)
        self._folder.append_metrics(metrics)
        self._trackers.log(metrics, metrics["step"])
        if rollouts is not None:
            self._trackers.log_completions(rollouts, metrics["step"])
        _, done, _ = self._limits.shown(self._progress)
        self._display.step(metrics, done)

    def evaluation(self, line: dict[str, Any]) -> None:
        """Log an evaluation."""
        self._folder.append_evaluation(line)
        self._trackers.log_evaluation(line, line["step"])

    def figure(self) -> None:
        """Send the trackers the learning curve."""
        if self._figures:
            self._trackers.log_figure(self._folder.draw, self._progress.step)
