"""What is known of a run from its folder, now and after every refresh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.comparison.runs import read_summary
from prepo_cli.comparison.schema import read_config
from prepo_cli.comparison.study_display import share_of
from prepo_cli.errors import UsageError
from prepo_cli.lock import Holder, read_holder
from prepo_cli.ownership import LOCK
from prepo_cli.reporting.recorded import recorded_steps, step_of
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.trackers import spread
from prepo_cli.statistics import FloatArray
from prepo_cli.watch.tail import Tail

State = Literal["running", "finished", "stopped"]
METRICS = (
    "step",
    "reward",
    "frac_reward_zero_std",
    "cost/rollouts_total",
    "cost/tokens_generated",
    "cost/tokens_scored",
    "cost/seconds",
)
COMPLETIONS = 3
RECENT_STEPS = 20
"""Steps over which throughput and the time left are measured."""


@dataclass(frozen=True)
class Accuracy:
    """An evaluation: finished steps, and avg@k (`metric`) with its interval."""

    step: int
    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Completion:
    """A rollout."""

    prompt: str
    text: str
    reward: float
    correct: bool


class WatchedRun:
    """A run's folder, of which each refresh reads what is new.

    Raises:
        UsageError: it is not a run folder, or its configuration is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self._metrics = Tail(self.folder.metrics, _numbers)
        self._evaluations = Tail(self.folder.evaluations, _accuracy)
        self._config_written = -1
        self._shown: Path | None = None
        self.config: dict[str, Any] = {}
        self.columns: dict[str, FloatArray] = {}
        self.completions: list[Completion] = []
        self.completions_step = 0
        self.holder: Holder | None = None
        self.state: State = "stopped"
        self.refresh()

    def refresh(self) -> None:
        """Look again; first at who holds the lock, so that nothing is missed of a run that has ended since."""
        holder = read_holder(self.folder.path / LOCK)
        self.holder = holder if holder is not None and (holder.is_alive or not holder.is_here) else None
        self._read_config()
        if self.holder is None and "strategies" not in self.config:
            raise UsageError(f"{self.folder.path} is not a run folder; pass the output folder of prepo train")
        self._metrics.refresh()
        self.columns = _columns(self._metrics.rows)
        self._evaluations.refresh()
        self._read_completions()
        finished = self.holder is None and read_summary(self.folder.summary).get("steps") == self.steps
        self.state = "running" if self.holder is not None else "finished" if finished else "stopped"

    @property
    def steps(self) -> int:
        """Finished steps."""
        return int(self._metrics.rows[-1][0]) + 1 if self._metrics.rows else 0

    @property
    def accuracies(self) -> list[Accuracy]:
        """The evaluations so far."""
        return self._evaluations.rows

    @property
    def share(self) -> float:
        """Progress of the run, by its closest limit."""
        return self._share(-1) if self._metrics.rows else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Training time left at the pace of the last steps, without evaluations; None before there is a pace."""
        rows = self._metrics.rows
        if len(rows) < 2:
            return None
        first = max(0, len(rows) - 1 - RECENT_STEPS)
        gained, seconds = self.share - self._share(first), rows[-1][-1] - rows[first][-1]
        return (1 - self.share) * seconds / gained if gained > 0 and np.isfinite(seconds) else None

    def _share(self, row: int) -> float:
        known = {name: value for name, value in zip(METRICS, self._metrics.rows[row], strict=True) if value == value}
        return share_of(known, self.config.get("training", {}))

    def _read_config(self) -> None:
        path = self.folder.config
        written = path.stat().st_mtime_ns if path.is_file() else -1
        if written != self._config_written:
            self.config = read_config(path) if written >= 0 else {}
            self._config_written = written

    def _read_completions(self) -> None:
        """Some completions of the newest step; none if the file is missing or damaged."""
        newest = next(reversed(recorded_steps(self.folder.rollouts)), None)
        if newest == self._shown:
            return
        self._shown, self.completions = newest, []
        if newest is None:
            return
        try:
            table = pq.read_table(newest)
            chosen = table.take(pa.array(spread(len(table), COMPLETIONS), pa.int64()))
            self.completions = [_completion(row) for row in chosen.to_pylist()]
            self.completions_step = step_of(newest) + 1
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return


def _columns(rows: list[tuple[float, ...]]) -> dict[str, FloatArray]:
    """Metrics by name [S], and of each step its `rollouts`, `tokens` and `tokens_per_second`.

    Tokens are those generated and scored; throughput counts the generated ones.
    """
    rows_SM = np.array(rows, dtype=np.float64).reshape(-1, len(METRICS))
    found = dict(zip(METRICS, rows_SM.T, strict=True))
    each = {name: np.diff(found[name], prepend=0.0) for name in METRICS if name.startswith("cost/")}
    seconds_S = np.maximum(each["cost/seconds"], 1e-9)
    return found | {
        "rollouts": each["cost/rollouts_total"],
        "tokens": each["cost/tokens_generated"] + each["cost/tokens_scored"],
        "tokens_per_second": each["cost/tokens_generated"] / seconds_S,
    }


def _numbers(line: dict[str, Any]) -> tuple[float, ...]:
    step = int(line["step"])
    values = (line.get(name) for name in METRICS[1:])
    return (step, *(float("nan") if value is None else float(value) for value in values))


def _accuracy(line: dict[str, Any]) -> Accuracy:
    metric = next(name for name in line if name.startswith("avg@"))
    return Accuracy(int(line["step"]), metric, *(float(line[metric][end]) for end in ("value", "low", "high")))


def _completion(row: dict[str, Any]) -> Completion:
    return Completion(str(row.get("prompt") or ""), str(row["text"]), float(row["reward"]), bool(row["correct"]))
