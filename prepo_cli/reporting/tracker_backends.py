"""TensorBoard, Weights & Biases and Trackio behind one small protocol.

Each keeps its data in the run folder. A run that resumes at step N continues the same tracker run, and whatever the
interrupted run had already sent from step N on is replaced (TensorBoard) or kept once (Trackio, and Weights & Biases
online). A library is imported only when its tracker is requested.
"""

from __future__ import annotations

import html
import netrc
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import yaml

from prepo_cli.errors import one_line
from prepo_cli.files import atomic_write
from prepo_cli.text import plain


class TrackerError(Exception):
    """A tracker failed; the message gives the reason."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker gets to know about the run; `step` is above 0 for a resumed run."""

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

    def log_image(self, name: str, picture: Path, step: int) -> None:
        """Record a PNG at a step."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Record a table at a step; all columns are of the same length."""

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

    def log_image(self, name: str, picture: Path, step: int) -> None:
        """Write an image event."""
        import numpy as np
        from PIL import Image

        with _as_tracker_error(OSError), Image.open(picture) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            self._writer.flush()

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Write a text event, which TensorBoard shows as a table."""
        with _as_tracker_error(OSError):
            self._writer.add_text(name, markdown_table(columns), step)
            self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the event file."""
        with _as_tracker_error(OSError):
            self._writer.close()


class Wandb:
    """Weights & Biases, in `wandb/`; offline unless the user is logged in or sets WANDB_MODE.

    The library keeps tables in WANDB_DATA_DIR, here in the run folder unless it is set, until they are uploaded.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_DATA_DIR", str((run.folder / "wandb").resolve()))
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

    def log_image(self, name: str, picture: Path, step: int) -> None:
        """Add an image to the step's row of the history."""
        import wandb

        with _as_tracker_error(*self._failures):
            self._run.log({name: wandb.Image(str(picture))}, step=step)

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Add a table to the step's row of the history."""
        import wandb

        with _as_tracker_error(*self._failures):
            table = wandb.Table(columns=list(columns), data=[list(row) for row in zip(*columns.values(), strict=True)])
            self._run.log({name: table}, step=step)

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

    def log_image(self, name: str, picture: Path, step: int) -> None:
        """Add a row with an image, unless the interrupted run had stored it."""
        self._log_media(name, step, lambda: self._library.Image(str(picture)))

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Add a row with a table, unless the interrupted run had stored it."""
        import pyarrow as pa

        self._log_media(name, step, lambda: self._library.Table(dataframe=pa.table(dict(columns)).to_pandas()))

    def _log_media(self, name: str, step: int, made: Callable[[], Any]) -> None:
        if (step, name) not in self._stored:
            with _as_tracker_error(OSError, ValueError):
                self._run.log({name: made()}, step=step)

    def close(self, failed: bool) -> None:
        """Wait until everything is stored."""
        with _as_tracker_error(OSError, RuntimeError, sqlite3.Error):
            self._library.finish()


MARKUP = re.compile(r"[\\`*_{}\[\]()#+\-.!|~$]")
"""What Markdown reads as markup, and shows as it is after a backslash."""

BACKENDS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def markdown_table(columns: Mapping[str, Sequence[Any]]) -> str:
    r"""A Markdown table that shows every cell as it is, on one line and without markup.

    >>> print(markdown_table({"text": ["2*3 | **6**", "<b>"], "reward": [1.0, 0.123456]}))
    | text | reward |
    | --- | --- |
    | 2\*3 \| \*\*6\*\* | 1 |
    | &lt;b&gt; | 0.1235 |
    """
    rule = ["---"] * len(columns)
    rows = [map(_cell, columns), rule, *(map(_cell, row) for row in zip(*columns.values(), strict=True))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return MARKUP.sub(r"\\\g<0>", html.escape(plain(str(value)), quote=False))


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
