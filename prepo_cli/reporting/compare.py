"""Compare finished runs: accuracy, costs, and the number of rollouts needed to reach a target accuracy.

Rollouts to target: a run's evaluations give points (rollouts generated, avg@k), and the first crossing of the target
is interpolated linearly between neighbouring points. The default target is the lowest of the runs' best avg@k, which
every run reaches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.config import read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.statistics import paired_difference

Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    name: str
    config: dict[str, Any]
    summary: Line
    metrics: list[Line]
    evaluations: list[Line]

    @property
    def recipe(self) -> str:
        """The recipe's name, or the strategies of all slots for a custom one."""
        name = str(self.summary["recipe"])
        return name if name != "custom" else "/".join(str(v) for v in self.summary["strategies"].values())

    @property
    def metric(self) -> str:
        """The name of avg@k with the run's k, such as avg@16."""
        return str(self.summary["metric"])

    def accuracy(self) -> list[tuple[float, float]]:
        """(rollouts generated, avg@k) at every evaluation."""
        return [(line["rollouts_total"], line[self.metric]["value"]) for line in self.evaluations]


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: the folder is missing, holds no run, or its run is not finished.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise UsageError(f"no such run folder: {path}")
    if not folder.config.is_file():
        raise UsageError(f"{path} is not a run folder (no config.yaml); pass the --output-dir of a finished run")
    if not folder.summary.is_file():
        raise UsageError(f"the run in {path} is unfinished; finish it with: prepo train --resume --output-dir {path}")
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    return Run(path.name, read_yaml(folder.config), summary, read_lines(folder.metrics), read_lines(folder.evaluations))


def rollouts_to(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """The rollouts at which linear interpolation of (rollouts, accuracy) first reaches the target, or None.

    >>> rollouts_to([(0, 0.25), (100, 0.75)], target=0.5)
    50.0
    """
    for i, (rollouts, accuracy) in enumerate(points):
        if accuracy >= target:
            if i == 0:
                return float(rollouts)
            before_rollouts, before = points[i - 1]
            return before_rollouts + (target - before) / (accuracy - before) * (rollouts - before_rollouts)
    return None


def default_target(runs: Sequence[Run]) -> float | None:
    """The lowest of the runs' best avg@k; None if any run was never evaluated."""
    bests = [max((accuracy for _, accuracy in run.accuracy()), default=None) for run in runs]
    return None if any(best is None for best in bests) else min(best for best in bests if best is not None)


def compare(runs: Sequence[Run], target: float | None = None) -> dict[str, Any]:
    """The comparison as plain data, as the table, the page and --json show it.

    Raises:
        UsageError: the runs were evaluated with different k.
    """
    if len({run.metric for run in runs}) > 1:
        metrics = ", ".join(f"{run.name} {run.metric}" for run in runs)
        raise UsageError(f"the runs were evaluated with different k ({metrics}); compare runs with the same k")
    target = target if target is not None else default_target(runs)
    rows = []
    for run in runs:
        final = run.summary["after"]
        rows.append(
            {
                "run": run.name,
                "recipe": run.recipe,
                "seed": run.summary["seed"],
                "final": final[run.metric] if final else None,
                "rollouts_to_target": rollouts_to(run.accuracy(), target) if target is not None else None,
                "difference_to_first": _difference(runs[0], run),
                **run.summary["cost"],
            }
        )
    return {"metric": runs[0].metric, "target": target, "runs": rows, "recipes": _by_recipe(runs, rows)}


def _difference(first: Run, other: Run) -> dict[str, float] | None:
    """Final accuracy minus the first run's, paired by prompt; None if they were evaluated on different prompts."""
    if other is first or not (first.summary["after"] and other.summary["after"]):
        return None
    before, after = first.evaluations[-1], other.evaluations[-1]
    if before.get("prompt_ids") != after.get("prompt_ids"):
        return None
    return paired_difference(before["per_prompt"], after["per_prompt"])._asdict()


def _by_recipe(runs: Sequence[Run], rows: Sequence[Line]) -> list[Line]:
    """Means over the seeds of each recipe, with their sample standard deviation.

    Only runs that agree in every setting but the seed, the run folder and the reporting are averaged.
    """
    grouped: dict[str, list[Line]] = {}
    for run, row in zip(runs, rows, strict=True):
        same = {key: value for key, value in run.config.items() if key not in ("seed", "output_dir", "reporting")}
        grouped.setdefault(json.dumps([run.recipe, same], sort_keys=True), []).append(row)
    result = []
    for members in grouped.values():
        line: Line = {"recipe": members[0]["recipe"], "seeds": len(members)}
        values = {
            "final": [row["final"]["value"] for row in members if row["final"]],
            "rollouts_to_target": [row["rollouts_to_target"] for row in members],
            "rollouts_total": [row["rollouts_total"] for row in members],
            "seconds": [row["seconds"] for row in members],
        }
        for name, column in values.items():
            known = [value for value in column if value is not None]
            complete = bool(known) and len(known) == len(members)
            line[name] = float(np.mean(known)) if complete else None
            line[f"{name}_spread"] = float(np.std(known, ddof=1)) if complete and len(known) > 1 else None
        result.append(line)
    return result
