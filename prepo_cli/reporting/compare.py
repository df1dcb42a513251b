"""What runs came to, side by side: accuracy, costs, and rollouts needed to reach one accuracy.

Rollouts to target: the evaluations of a run give points (rollouts generated, avg@k); the first crossing of the target
is interpolated linearly between the points around it. By default the target is the highest avg@k of the run whose
highest is lowest, so that every run has an answer.
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
    """A finished run as read from its folder."""

    name: str
    config: dict[str, Any]
    summary: Line
    metrics: list[Line]
    evaluations: list[Line]

    @property
    def recipe(self) -> str:
        """Its recipe, or its slots if it has none."""
        name = str(self.summary["recipe"])
        return name if name != "custom" else "/".join(str(v) for v in self.summary["strategies"].values())

    @property
    def metric(self) -> str:
        """avg@k, with its k."""
        return str(self.summary["metric"])

    def accuracy(self) -> list[tuple[float, float]]:
        """(rollouts generated, avg@k) at every evaluation."""
        return [(line["rollouts_total"], line[self.metric]["value"]) for line in self.evaluations]


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: no such folder, no run in it, or one that is not finished.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise UsageError(f"no such run folder: {path}")
    if not folder.config.is_file():
        raise UsageError(f"{path} holds no run (no config.yaml)")
    if not folder.summary.is_file():
        raise UsageError(f"{path} is not finished; go on with: prepo train --resume --output-dir {path}")
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    return Run(path.name, read_yaml(folder.config), summary, read_lines(folder.metrics), read_lines(folder.evaluations))


def rollouts_to(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where the polyline through (rollouts, accuracy) first reaches the target; None if it never does."""
    for i, (rollouts, accuracy) in enumerate(points):
        if accuracy >= target:
            if i == 0:
                return float(rollouts)
            before_rollouts, before = points[i - 1]
            return before_rollouts + (target - before) / (accuracy - before) * (rollouts - before_rollouts)
    return None


def default_target(runs: Sequence[Run]) -> float | None:
    """The worst run's best avg@k; None if a run was never evaluated."""
    bests = [max((accuracy for _, accuracy in run.accuracy()), default=None) for run in runs]
    return None if any(best is None for best in bests) else min(best for best in bests if best is not None)


def compare(runs: Sequence[Run], target: float | None = None) -> dict[str, Any]:
    """Everything the table, the figures and the page show; plain types.

    Raises:
        UsageError: runs that were evaluated with different k.
    """
    if len({run.metric for run in runs}) > 1:
        raise UsageError(f"runs were evaluated with different k: {', '.join(f'{r.name} {r.metric}' for r in runs)}")
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
    """Final accuracy against the first run's, over the same prompts; None where they were not the same."""
    if other is first or not (first.summary["after"] and other.summary["after"]):
        return None
    before, after = first.evaluations[-1], other.evaluations[-1]
    if before.get("prompt_ids") != after.get("prompt_ids"):
        return None
    interval = paired_difference(np.array(before["per_prompt"]), np.array(after["per_prompt"]))
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _by_recipe(runs: Sequence[Run], rows: Sequence[Line]) -> list[Line]:
    """Means over the seeds of each recipe, with the spread between seeds (sample deviation).

    Runs of a recipe that differ in anything but the seed and what is reported are not averaged with each other.
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
            whole = bool(known) and len(known) == len(members)
            line[name] = float(np.mean(known)) if whole else None
            line[f"{name}_spread"] = float(np.std(known, ddof=1)) if whole and len(known) > 1 else None
        result.append(line)
    return result
