"""TensorBoard, Weights & Biases and Trackio behind one small protocol.

Each keeps its data in the run folder. A run that resumes at step N continues the same tracker run, and whatever the
interrupted run had already sent from step N on is replaced (TensorBoard) or kept once (Trackio, and Weights & Biases
online). A library is imported only when its tracker is requested.
"""

from __future__ import annotations

import netrc
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import yaml

from prepo_cli.errors import one_line
from prepo_cli.files import atomic_write


class TrackerError(Exception):
    """A tracker failed; the message gives the reason."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about the run; `step` is above 0 for a resumed run."""

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """One tracker. Every call may raise TrackerError. `note` tells the user where to look."""

    note: str

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record finite values at a step."""

    def close(self, failed: bool) -> None:
        """Flush pending data; `failed` means that the run ended early."""


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        self.note = f"tensorboard --logdir {folder}"
        new = not any(folder.glob("events.*"))
        with _as_tracker_error(OSError):
            self._writer = SummaryWriter(str(folder), purge_step=run.step or None)
            if new:
                self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(run.config), sort_keys=False)}```")
            self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one event per value and flush, so that a killed run loses nothing."""
        with _as_tracker_error(OSError):
            for key, value in values.items():
                self._writer.add_scalar(key, value, step)
            self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the event file."""
        with _as_tracker_error(OSError):
            self._writer.close()


class Wandb:
    """Weights & Biases, in `wandb/`; offline unless the user is logged in or sets WANDB_MODE."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._failures = (wandb.Error, OSError)
        with _as_tracker_error(*self._failures):
            self._run = wandb.init(
                project=run.project,
                name=run.name,
                id=_wandb_id(run.folder / "wandb"),
                resume="allow",
                mode=wandb_mode(),
                dir=str(run.folder),
                config=dict(run.config),
                # The metadata would hold the command line, and with it the credentials of a server's address.
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=True),
            )
        upload = f"offline; upload with: wandb sync {run.folder / 'wandb'}/offline-run-*"
        self.note = upload if self._run.offline else str(self._run.url or "disabled by WANDB_MODE")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add to the step's row of the history."""
        with _as_tracker_error(*self._failures):
            self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        """Wait until everything is written or uploaded."""
        with _as_tracker_error(*self._failures):
            self._run.finish(exit_code=int(failed))


class Trackio:
    """Trackio's local store, in `trackio/` unless TRACKIO_DIR is set.

    The library reads TRACKIO_DIR once, on import, so all runs of one process share the first run's store.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run.folder / "trackio").resolve()))
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._library = trackio
        with _as_tracker_error(OSError, ValueError, sqlite3.Error):
            rows = SQLiteStorage.get_logs(run.project, run.name) if run.step else []
            self._stored = {(row["step"], key) for row in rows for key in row}
            self._run = trackio.init(
                project=run.project,
                name=run.name,
                config=dict(run.config),
                resume="allow" if run.step else "never",
                embed=False,
            )
        self.note = f"TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {run.project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a row with the values that the interrupted run had not stored yet."""
        fresh = {key: value for key, value in values.items() if (step, key) not in self._stored}
        if fresh:
            self._run.log(fresh, step=step)

    def close(self, failed: bool) -> None:
        """Wait until everything is stored."""
        with _as_tracker_error(OSError, RuntimeError, sqlite3.Error):
            self._library.finish()


BACKENDS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def wandb_mode() -> Literal["offline"] | None:
    """Offline, or None to let the library decide because the user is logged in or has set WANDB_MODE."""
    if any(os.environ.get(name) for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    candidates = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for candidate in candidates:
        path = Path(candidate).expanduser()
        try:
            if path.is_file() and host in netrc.netrc(path).hosts:
                return None
        except (OSError, netrc.NetrcParseError):
            continue
    return "offline"


def _wandb_id(folder: Path) -> str:
    """The tracker run's id, stored in the run folder so that a resumed run continues the same one."""
    path = folder / "id"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        atomic_write(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


@contextmanager
def _as_tracker_error(*failures: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        raise TrackerError(one_line(error)) from error
