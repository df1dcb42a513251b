"""The run folder: everything a run writes, safe against a kill at any moment.

Files are written atomically, lines of `metrics.jsonl` and `evaluations.jsonl` flushed one by one; a resumed run drops
all lines that came after its checkpoint, and an incomplete last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prepo_cli.config import read_yaml, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.files import PARTIAL, append_line, atomic_path, atomic_write, atomic_write_json, read_lines
from prepo_cli.sections import MAY_CHANGE, RunConfig

OURS = ("metrics.jsonl", "evaluations.jsonl", "summary.json", "README.md", "learning_curve.png", "config.yaml")


class RunFolder:
    """Paths and writes of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.summary = path / "summary.json"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"

    @property
    def in_use(self) -> bool:
        """Whether the folder holds anything but files that a kill left half written."""
        return self.path.exists() and any(not path.name.startswith(PARTIAL) for path in self.path.iterdir())

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Refuse, before anything is loaded, a folder that holds another run or can't be written to.

        Raises:
            UsageError: why, and the cure.
        """
        if resume:
            self._refuse_another_run(config)
        elif self.in_use and not (overwrite and self.config.is_file()):
            cure = "resume it with --resume, replace it with --overwrite" if self.config.is_file() else "empty it"
            what = "a run" if self.config.is_file() else "other files"
            raise UsageError(f"{self.path} already holds {what}: {cure}, or choose another --output-dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{PARTIAL}probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(f"can't write to {self.path} ({error.strerror}); choose another --output-dir") from error

    def begin(self, config: RunConfig, *, resume: bool) -> None:
        """Prepare the folder, deleting any run that is overwritten, and write the configuration."""
        if not resume:
            self._clear()
        atomic_write(self.config, to_yaml(config))  # first, since a folder without it counts as somebody else's
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        with atomic_path(self.rollouts / f"step_{step:06d}.parquet") as temporary:
            pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), temporary)

    def truncate(self, step: int, finished: bool) -> None:
        """Drop what a run that resumes before `step` will write again.

        An evaluation due after a step is written before that step's checkpoint, the final one after the last.
        """
        _rewrite(self.metrics, [line for line in read_lines(self.metrics) if line["step"] < step])
        newest = step - 1 if finished else step
        _rewrite(self.evaluations, [line for line in read_lines(self.evaluations) if line["step"] <= newest])
        for path in self.rollouts.glob("step_*"):
            if int(path.stem.removeprefix("step_")) >= step:
                path.unlink()

    def finish(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        """Write the summary, the model card and the learning curve."""
        from prepo_cli.reporting.card import model_card

        atomic_write(self.path / "README.md", model_card(config, summary))
        if config.reporting.figures:
            from prepo_cli.reporting.figures import learning_curve

            learning_curve(read_lines(self.metrics), read_lines(self.evaluations), self.path / "learning_curve.png")
        atomic_write_json(self.summary, summary)

    def _refuse_another_run(self, config: RunConfig) -> None:
        for key, before, now in differences(read_yaml(self.config), config):
            raise UsageError(
                f"{self.path} holds another run: its {key} is {before!r:.300}, not {now!r:.300}; "
                "resume without that change, or choose another --output-dir"
            )

    def _clear(self) -> None:
        """Delete the run; its configuration, without which the folder would count as somebody else's, goes last."""
        for folder in (self.rollouts, self.checkpoints, self.final):
            shutil.rmtree(folder, ignore_errors=True)
        for name in OURS:
            (self.path / name).unlink(missing_ok=True)


def differences(before: Mapping[str, Any], now: BaseModel, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ and may not change on resume: dotted key, value that the run wrote, value now."""
    values = now.model_dump(mode="json")
    for name, field in type(now).model_fields.items():
        section, written = getattr(now, name), before.get(name)
        if MAY_CHANGE in field.metadata:
            continue
        if isinstance(section, BaseModel):
            yield from differences(written or {}, section, f"{place}{name}.")
        elif written != values[name]:
            yield f"{place}{name}", written, values[name]


def _rewrite(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines))
