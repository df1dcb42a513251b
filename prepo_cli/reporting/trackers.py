"""Trackers: every metric also goes to TensorBoard, Weights & Biases or Trackio where the user asks for it.

`metrics.jsonl` is the record of a run and a tracker a copy, so a tracker that fails is named in one line and switched
off, and the run goes on. Each tracker keeps its data in the run folder. A run that is resumed at step N goes on in the
same tracker run: steps before N are never sent again, and what an interrupted run had sent from step N on is replaced
(TensorBoard) or kept once (Trackio, and Weights & Biases online).

A library is imported only when it is asked for, and what it prints goes to stderr.
"""

from __future__ import annotations

import math
import netrc
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
import yaml

from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say


class TrackerError(Exception):
    """A tracker can't go on; the message says why."""


@dataclass(frozen=True)
class Start:
    """What a tracker begins with. `step` is above 0 where a run is resumed."""

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """One tracker; every call may raise TrackerError. `note` tells the user where to look."""

    note: str

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record finite values at a step."""

    def close(self, failed: bool) -> None:
        """Write what is pending; `failed` says that the run was cut short."""


def check_trackers(config: RunConfig) -> None:
    """Refuse, before anything is loaded, a tracker whose package isn't there.

    Raises:
        UsageError: names the package and how to install it.
    """
    for name in config.reporting.report_to:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without an origin it is a mere folder of that name
            raise UsageError(f"reporting.report_to: {name} is not installed; pip install 'prepo[{name}]'")


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the metrics, booleans as 0 and 1, without the step itself."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if key != "step" and isinstance(value, Real | np.bool_) and math.isfinite(value)
    }


def evaluation_metrics(line: Mapping[str, Any], prefix: str = "eval/") -> dict[str, Any]:
    """An evaluation as flat metrics: an interval becomes `eval/avg@16`, `eval/avg@16_low` and `eval/avg@16_high`."""
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


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        where = start.folder / "tensorboard"
        self.note = f"tensorboard --logdir {where}"
        new = not any(where.glob("events.*"))
        with _as_tracker_error(OSError):
            self._writer = SummaryWriter(str(where), purge_step=start.step or None)
            if new:
                self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(start.config), sort_keys=False)}```")
            self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One event for each value, flushed, so that a killed run has lost none."""
        with _as_tracker_error(OSError):
            for key, value in values.items():
                self._writer.add_scalar(key, value, step)
            self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the event file."""
        with _as_tracker_error(OSError):
            self._writer.close()


class Wandb:
    """Weights & Biases, in `wandb/`; offline unless the user is logged in or WANDB_MODE says otherwise."""

    def __init__(self, start: Start) -> None:
        import wandb

        self._failures = (wandb.Error, OSError)
        with _as_tracker_error(*self._failures):
            self._run = wandb.init(
                project=start.project,
                name=start.name,
                id=_wandb_id(start.folder / "wandb"),
                resume="allow",
                mode=_wandb_mode(),
                dir=str(start.folder),
                config=dict(start.config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        upload = f"offline; upload with: wandb sync {start.folder / 'wandb'}/offline-run-*"
        self.note = upload if self._run.offline else str(self._run.url or "switched off by WANDB_MODE")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One row of the history; values of the same step share it."""
        with _as_tracker_error(*self._failures):
            self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        """Wait until all is written, or uploaded."""
        with _as_tracker_error(*self._failures):
            self._run.finish(exit_code=int(failed))


class Trackio:
    """Trackio's local store, in `trackio/` unless TRACKIO_DIR names a place.

    The library reads TRACKIO_DIR once, when it is imported: several runs of one process share the first one's store.
    """

    def __init__(self, start: Start) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((start.folder / "trackio").resolve()))
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._library = trackio
        with _as_tracker_error(OSError, ValueError, sqlite3.Error):
            rows = SQLiteStorage.get_logs(start.project, start.name) if start.step else []
            self._held = {(row["step"], key) for row in rows for key in row}
            self._run = trackio.init(
                project=start.project,
                name=start.name,
                config=dict(start.config),
                resume="allow" if start.step else "never",
                embed=False,
            )
        self.note = f"TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {start.project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One row, without what an interrupted run had stored for the step."""
        fresh = {key: value for key, value in values.items() if (step, key) not in self._held}
        if fresh:
            self._run.log(fresh, step=step)

    def close(self, failed: bool) -> None:
        """Wait until all is stored."""
        with _as_tracker_error(OSError, RuntimeError, sqlite3.Error):
            self._library.finish()


STARTERS: Mapping[str, Callable[[Start], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


class Trackers:
    """All trackers of a run; use it in a `with`, or call `close`."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        step: int,
        starters: Mapping[str, Callable[[Start], Tracker]] = STARTERS,
    ) -> None:
        """Start the trackers of `reporting.report_to`.

        Args:
            config: the resolved configuration, which the trackers show.
            folder: the run folder, ready to be written to.
            step: 0 for a new run, which deletes what an overwritten one left; else the step it is resumed at.
            starters: by name, what starts a tracker.
        """
        reporting = config.reporting
        self._first = step
        self._running: dict[str, Tracker] = {}
        if step == 0:
            for name in starters:
                shutil.rmtree(folder / name, ignore_errors=True)
        name = reporting.run_name or folder.resolve().name
        start = Start(folder, reporting.project, name, config.model_dump(mode="json"), step)
        for tracker in dict.fromkeys(reporting.report_to):
            with self._switched_off_on_failure(tracker):
                self._running[tracker] = starters[tracker](start)
                say(f"{tracker}: {self._running[tracker].note}")
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
        """Send a step's metrics; steps before the one the run was resumed at were sent then and are left out."""
        values = scalars(metrics)
        if step < self._first or not values:
            return
        for name, tracker in list(self._running.items()):
            with self._switched_off_on_failure(name):
                tracker.log(values, step)

    def log_evaluation(self, line: Mapping[str, Any], step: int) -> None:
        """Send an evaluation as `eval/...`, intervals as three values."""
        self.log(evaluation_metrics(line), step)

    def close(self, failed: bool = False) -> None:
        """Have every tracker write what is pending; a second call does nothing."""
        for name, tracker in list(self._running.items()):
            with self._switched_off_on_failure(name):
                tracker.close(failed)
        self._running.clear()

    @contextmanager
    def _switched_off_on_failure(self, name: str) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):  # stdout is for the run's results
                yield
        except TrackerError as error:
            self._running.pop(name, None)
            say(f"{name} failed and is switched off for the rest of the run: {error}; the run goes on")


@contextmanager
def _as_tracker_error(*failures: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        raise TrackerError(" ".join(str(error).split()) or type(error).__name__) from error


def _wandb_id(folder: Path) -> str:
    """The run's id, kept in the run folder so that a resumed run goes on in the same one."""
    path = folder / "id"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _wandb_mode() -> Literal["offline"] | None:
    """Offline, or None where the library shall decide: the user is logged in or has set WANDB_MODE."""
    if any(os.environ.get(name) for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in places:
        path = Path(place).expanduser()
        try:
            if path.is_file() and host in netrc.netrc(path).hosts:
                return None
        except (OSError, netrc.NetrcParseError):
            continue
    return "offline"
