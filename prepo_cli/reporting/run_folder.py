"""The run folder: everything a run writes, safe against a kill at any moment.

Files are written atomically, lines of `metrics.jsonl` and `evaluations.jsonl` flushed one by one; a resumed run drops
all lines that came after its checkpoint, and an incomplete last one. A marker lists what is prepo's in the folder, and
overwriting a run deletes nothing else; a lock keeps other processes out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from prepo_cli.config import read_yaml, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.files import (
    append_line,
    atomic_path,
    atomic_write,
    atomic_write_json,
    read_lines,
    readable_lines,
)
from prepo_cli.lock import locked, refuse_in_use
from prepo_cli.manifest import has_manifest
from prepo_cli.ownership import (
    LOCK,
    Marker,
    find_numbered,
    is_unused,
    numbered,
    read_marker,
    refuse_foreign,
    refuse_non_folder,
    remove_if_empty,
    remove_owned,
    set_aside,
    unused,
    write_unless_edited,
)
from prepo_cli.reporting.resuming import refuse_another_run
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say

CARD = "README.md"
FILES = ("metrics.jsonl", "evaluations.jsonl", "summary.json", "learning_curve.png", "config.yaml", "profile.json.gz")
FOLDERS = ("rollouts", "skipped", "checkpoints", "final")
OURS = (
    *FILES,
    *numbered("rollouts/step_#.parquet"),
    *numbered("skipped/step_#.parquet"),
    *numbered("checkpoints/step-#/"),
    "final/",
    "tensorboard/events.out.tfevents.*",
    "wandb/id",
    "wandb/latest-run",
    "wandb/debug*.log",
    "wandb/*run-*/*.wandb",
    "wandb/*run-*/files/*",
    "wandb/*run-*/files/media/*/*",
    "wandb/*run-*/logs/*",
    "wandb/artifacts/staging/*",
    "trackio/*.db*",
    "trackio/*.lock",
    "trackio/media/*/*/*/*",
)
"""What a run writes, its trackers included, as the marker lists it; the model card has a digest there instead."""
STEP_TABLE = re.compile(r"step_(\d{6,})\.parquet")
LISTED_LINES = 5
"""Damaged lines that are named, of many."""


class RunFolder:
    """Paths and writes of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.summary = path / "summary.json"
        self.rollouts = path / "rollouts"
        self.skipped = path / "skipped"
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"

    @property
    def in_use(self) -> bool:
        """Whether the folder holds anything but what a kill leaves right after the start."""
        return not is_unused(self.path)

    @property
    def is_ours(self) -> bool:
        """Whether the folder was made for a run."""
        marker = read_marker(self.path)
        return marker is not None and marker.kind == "run"

    @contextmanager
    def claimed(self, config: RunConfig, *, resume: bool, overwrite: bool, break_lock: bool = False) -> Iterator[None]:
        """Keep other processes out of the folder, in which this run may start or resume.

        Raises:
            UsageError: it may not, or another process uses the folder.
        """
        is_new = not self.path.exists()
        try:
            refuse_in_use(self.path / LOCK, self.path)
            self.check(config, resume=resume, overwrite=overwrite)
            with locked(self.path / LOCK, self.path, break_lock):
                self.check(config, resume=resume, overwrite=overwrite)  # another run may just have ended in it
                yield
        finally:
            if is_new:
                remove_if_empty(self.path)

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Refuse, before anything is loaded, a folder that holds something else or can't be written to.

        Raises:
            UsageError: why, and how to fix it.
        """
        refuse_non_folder(self.path)
        marker = read_marker(self.path)
        if marker is not None and marker.kind != "run":
            raise UsageError(f"{self.path} belongs to a prepo {marker.kind}; choose another --output-dir")
        if resume:
            if not self.config.is_file():
                raise UsageError(f"nothing to resume: {self.path} is not a run folder; start without --resume")
            refuse_another_run(self.path, read_yaml(self.config), config)
        elif _lies_in(config.model.model_name_or_path, self.path):
            raise UsageError(f"{self.path} contains the model that the run starts from; choose another --output-dir")
        elif self.in_use and not (overwrite and marker is not None):
            raise UsageError(f"{self.path} already contains {self._content(marker)}, or choose another --output-dir")
        refuse_foreign(self.path, (CARD,), "choose another --output-dir")
        self._refuse_wrong_kinds()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise UsageError(f"can't write to {self.path} ({error.strerror}); choose another --output-dir") from error

    def begin(self, config: RunConfig, *, resume: bool) -> None:
        """Prepare the folder, deleting any run that is overwritten, and write the configuration.

        A run of an older prepo that is resumed gets its marker here.
        """
        marker = read_marker(self.path)
        if marker is not None and not resume:
            self._clear()
        written = marker.written if marker is not None and resume else {}
        Marker("run", OURS, written).write(self.path)  # first, since a folder without it counts as somebody else's
        atomic_write(self.config, to_yaml(config))
        self.rollouts.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """One step's metrics."""
        append_line(self.metrics, line)

    def append_evaluation(self, line: Mapping[str, Any]) -> None:
        """One evaluation."""
        append_line(self.evaluations, line)

    def write_rollouts(self, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """The step's rollouts as parquet."""
        _write_table(self.rollouts, step, columns)

    def write_skipped(self, step: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        """The samples of the step's skipped updates as parquet."""
        self.skipped.mkdir(exist_ok=True)
        return _write_table(self.skipped, step, columns)

    def truncate(self, step: int, finished: bool) -> None:
        """Drop what a run that resumes before `step` will write again.

        An evaluation due after a step is written before that step's checkpoint, the final one after the last. A file
        with damaged lines is copied before they are dropped. A run that is extended has no summary until its new end.
        """
        _keep_lines(self.metrics, step - 1)
        _keep_lines(self.evaluations, step - 1 if finished else step)
        if not finished:
            self.summary.unlink(missing_ok=True)
        for folder in (self.rollouts, self.skipped):
            for path in folder.iterdir() if folder.is_dir() else ():
                found = STEP_TABLE.fullmatch(path.name)
                if found and int(found[1]) >= step:
                    path.unlink()

    def evaluated(self, step: int) -> bool:
        """Whether there is an evaluation after that many steps."""
        return any(line["step"] == step for line in read_lines(self.evaluations))

    def finish(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        """Write the summary, the model card and the learning curve; a README.md that is not prepo's stays."""
        from prepo_cli.reporting.card import model_card

        if not write_unless_edited(self.path, CARD, model_card(config, summary)):
            say(f"{self.path / CARD} was not written by prepo, so it is kept and no model card is written")
        if config.reporting.figures:
            self.draw()
        atomic_write_json(self.summary, summary)

    def draw(self) -> Path | None:
        """Draw the learning curve; None before there are metrics."""
        from prepo_cli.reporting.figures import learning_curve

        path, metrics = self.path / "learning_curve.png", read_lines(self.metrics)
        learning_curve(metrics, read_lines(self.evaluations), path)
        return path if metrics else None

    def _content(self, marker: Marker | None) -> str:
        """What a used folder contains, and how to proceed."""
        if marker is not None:
            return "a run: resume it with --resume, replace it with --overwrite"
        if self.config.is_file():
            return "a config.yaml but no prepo marker, so --overwrite won't touch it: resume it or empty it"
        return "other files: empty it"

    def _refuse_wrong_kinds(self) -> None:
        for name in (*FILES, *FOLDERS):
            path = self.path / name
            if os.path.lexists(path) and path.is_dir() != (name in FOLDERS):
                needed = "folder" if name in FOLDERS else "file"
                raise UsageError(f"{path} must be a {needed}; move what is there")
        if self.final.is_symlink():
            raise UsageError(f"{self.final} must be a folder, not a link; move it")

    def _clear(self) -> None:
        """Delete the run. The marker stays, so that a kill leaves a folder that can be overwritten.

        A checkpoint that is a link, or whose damaged manifest doesn't say which files are prepo's, is set aside.
        """
        remove_owned(self.path)
        for path in find_numbered(self.checkpoints, "step-#"):
            if has_manifest(path):
                set_aside(path)


def _lies_in(name: str, folder: Path) -> bool:
    """Whether a model is a folder within another one, or that folder itself."""
    model = Path(name).resolve()
    return model.is_dir() and model.is_relative_to(folder.resolve())


def _write_table(folder: Path, step: int, columns: Mapping[str, Sequence[Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"step_{step:06d}.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), temporary)
    return path


def _keep_lines(path: Path, newest: int) -> None:
    """Drop the lines of later steps than `newest`, and damaged ones, of which the file is copied first."""
    lines, damaged = readable_lines(path)
    if damaged:
        copy = unused(path.with_name(f"{path.name}.damaged"))
        with atomic_path(copy) as temporary:
            shutil.copyfile(path, temporary)
        more = "" if len(damaged) <= LISTED_LINES else f" and {len(damaged) - LISTED_LINES:,} more"
        where = ", ".join(map(str, damaged[:LISTED_LINES]))
        say(f"{path} is damaged in line {where}{more}: kept the other lines, and copied the whole file to {copy.name}")
    kept = [line for line in lines if line["step"] <= newest]
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in kept))
