"""The run folder: what a run writes, so that a kill at any moment leaves nothing half written that counts.

Files that are replaced are written beside their place, flushed and renamed. Lines of `metrics.jsonl` and
`evaluations.jsonl` are flushed one by one; on resume everything past the checkpoint is cut off, a torn last line too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prepo_cli.config import read_yaml, write_yaml
from prepo_cli.errors import UsageError
from prepo_cli.files import append_line, atomic_write, finite, read_lines
from prepo_cli.sections import RunConfig

MAY_CHANGE = (
    "output_dir",
    "reporting.",
    "engine.",
    "rewards.workers",
    "model.gradient_checkpointing",
    "model.attn_implementation",
    "training.fsdp",
    "training.max_tokens_per_micro_batch",
    "training.save_",
)
"""Settings that a resumed run may have otherwise: where and how it computes, not what."""
OURS = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "summary.json", "README.md")


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

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Refuse, before anything is loaded, a folder that holds another run or can't be written to; changes nothing.

        Raises:
            UsageError: why, and the cure.
        """
        if resume:
            self._refuse_another_run(config)
        elif self.path.exists() and any(self.path.iterdir()) and not (overwrite and self.config.is_file()):
            cure = "go on with --resume, replace it with --overwrite" if self.config.is_file() else "empty it"
            what = "another run" if self.config.is_file() else "other files"
            raise UsageError(f"{self.path} already holds {what}: {cure}, or take another --output-dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"{self.path} can't be written to ({error.strerror}); take another --output-dir"
            ) from error

    def begin(self, config: RunConfig, *, resume: bool) -> None:
        """Make the folder ready, which deletes what an overwritten run left, and write the configuration."""
        if not resume:
            self._clear()
        self.rollouts.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        write_yaml(self.config, config)

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

        path = self.rollouts / f"step_{step:06d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), partial)
        partial.replace(path)

    def truncate(self, step: int, total_steps: int) -> None:
        """Forget what a run that goes on before `step` will write again.

        An evaluation due after a step is written before that step's checkpoint; the one at the end comes after it.
        """
        _rewrite(self.metrics, [line for line in read_lines(self.metrics) if line["step"] < step])
        newest = step - 1 if step == total_steps else step
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
        atomic_write(self.summary, json.dumps(finite(summary), indent=1))

    def _refuse_another_run(self, config: RunConfig) -> None:
        before, now = (dict(_flat(settings)) for settings in (read_yaml(self.config), config.model_dump(mode="json")))
        for key, value in now.items():
            if before.get(key) != value and not key.startswith(MAY_CHANGE):
                raise UsageError(
                    f"{self.path} holds another run: its {key} is {before.get(key)!r:.300}, not {value!r:.300}; "
                    "resume without that flag or take another --output-dir"
                )

    def _clear(self) -> None:
        for name in OURS:
            (self.path / name).unlink(missing_ok=True)
        (self.path / "learning_curve.png").unlink(missing_ok=True)
        for folder in (self.rollouts, self.checkpoints, self.final):
            shutil.rmtree(folder, ignore_errors=True)


def _flat(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; a mapping that is a value itself (template arguments) is taken apart too."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _rewrite(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines))
