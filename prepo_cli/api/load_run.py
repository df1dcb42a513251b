"""`prepo_cli.load_run`: a run folder's results as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.comparison.jsonl import read_objects
from prepo_cli.comparison.runs import COPY_AGAIN, read_summary
from prepo_cli.comparison.schema import read_config
from prepo_cli.errors import UsageError, one_line
from prepo_cli.reporting.recorded import recorded_steps, step_of
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.trackers import evaluation_metrics


@dataclass(frozen=True)
class LoadedRun:
    """A run, read from its folder while it is running or after it has ended.

    `metrics` has a row for each step, `evaluations` one for each evaluation, with intervals as three columns: `avg@16`,
    `avg@16_low` and `avg@16_high`. A value that a row lacks, or that was not finite, is null. `summary` is empty until
    the run is finished.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: pa.Table
    evaluations: pa.Table

    @property
    def rollout_steps(self) -> list[int]:
        """The steps whose rollouts are in the folder; empty for a copy of the run without them."""
        return [step_of(path) for path in self._rollout_files]

    def rollouts(self, steps: Iterable[int] | None = None) -> pa.Table:
        """The rollouts of the given steps, or of all, one row each, with the step in column `step`.

        Raises:
            UsageError: the folder lacks one of the steps, or a file is damaged.
        """
        files = dict(zip(self.rollout_steps, self._rollout_files, strict=True))
        chosen = sorted(files if steps is None else steps)
        missing = [step for step in chosen if step not in files]
        if missing:
            raise UsageError(
                f"{self.path} has no rollouts for step {missing[0]}; rollout_steps lists the recorded steps"
            )
        tables = [_with_step(files[step], step) for step in chosen]
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})

    @property
    def _rollout_files(self) -> list[Path]:
        return recorded_steps(self.path / "rollouts")


def load_run(path: Path | str) -> LoadedRun:
    """Read a run folder; `metrics.jsonl` and `evaluations.jsonl` may be gzipped, and the run unfinished.

    Raises:
        UsageError: there is no run, or a file of it is damaged.
    """
    folder = RunFolder(Path(path))
    config = read_config(folder.config) if folder.config.is_file() else {}
    if "strategies" not in config:
        raise UsageError(f"{path} is not a run folder; pass the output_dir of a training run")
    return LoadedRun(
        path=folder.path,
        config=config,
        summary=read_summary(folder.summary),
        metrics=_table(folder.metrics, read_objects(folder.metrics, growing=True)),
        evaluations=_table(
            folder.evaluations,
            [evaluation_metrics(line, prefix="") for line in read_objects(folder.evaluations, growing=True)],
        ),
    )


def _table(path: Path, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One column for every key that occurs in the rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise UsageError(f"{path} mixes types ({one_line(error)}); {COPY_AGAIN}") from error


def _with_step(path: Path, step: int) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is damaged ({one_line(error)}); delete it to read the others") from error
    return table.add_column(0, "step", pa.array([step] * len(table), pa.int64()))
