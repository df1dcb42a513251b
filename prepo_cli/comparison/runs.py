"""Read runs from disk: run folders, the folders of `prepo eval`, and strangers' logs.

`metrics.jsonl` and `evaluations.jsonl` may be gzipped; neither checkpoints nor rollouts are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.comparison.foreign import read_foreign
from prepo_cli.comparison.jsonl import objects, read_columns, read_objects
from prepo_cli.comparison.result import Run
from prepo_cli.config import CUSTOM, read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.statistics import FloatArray
from strategies.errors import StrategyError
from strategies.registry import Spec, parse
from strategies.strategy_set import SLOT_DEFAULTS, resolve_slots


def read_run(path: Path) -> Run:
    """A finished run.

    Raises:
        UsageError: there is no run, it is unfinished, or a file is damaged.
    """
    if not path.exists():
        raise UsageError(f"no such run folder: {path}")
    summary = _read_summary(path / "summary.json")
    if "strategies" in summary:
        return _training_run(path, summary)
    if "fingerprint" in summary:
        return _evaluation_run(path, summary)
    run = read_foreign(path)
    if run is not None:
        return run
    if (path / "config.yaml").is_file():
        raise UsageError(f"the run in {path} is unfinished; finish it with: prepo train --resume --output-dir {path}")
    if (path / "partial").is_dir():
        raise UsageError(f"the evaluation in {path} is unfinished; run its prepo eval command again to finish it")
    raise UsageError(
        f"{path} holds no run; pass the --output-dir of a finished prepo train or prepo eval, or a log of TRL or verl"
    )


def recipe_label(recipe: str, slots: Mapping[str, str]) -> str:
    """The recipe's name; a custom one is named by its selector and what else it does not bring or leave as it is.

    Classes of one's own go by their names, without file or package.

    >>> recipe_label("custom", SLOT_DEFAULTS | {"weighting": "rel-entropy"})
    'random + rel-entropy'
    >>> recipe_label("custom", SLOT_DEFAULTS | {"selector": "mine/oracle.py:Oracle:noise=0.1"})
    'Oracle:noise=0.1'
    """
    if recipe != CUSTOM:
        return recipe
    selector = slots["selector"]
    try:
        brought = resolve_slots({"selector": selector})
    except StrategyError:  # a class that this machine lacks
        brought = SLOT_DEFAULTS | {"selector": selector}
    others = [text for slot, text in slots.items() if slot != "selector" and text != brought[slot]]
    return " + ".join(map(_short, [selector, *others]))


def _training_run(path: Path, summary: Mapping[str, Any]) -> Run:
    folder = RunFolder(path)
    metrics, lines = read_columns(folder.metrics), read_objects(folder.evaluations)
    evaluated = bool(lines) and lines[-1].get("step", 0) > 0  # what was measured before training says nothing of it
    metric = str(summary["metric"])
    return Run(
        name=path.resolve().name,
        recipe=recipe_label(str(summary["recipe"]), summary["strategies"]),
        seed=int(summary["seed"]),
        source="prepo",
        folder=path,
        config=read_yaml(folder.config),
        metrics=metrics,
        metric=metric,
        costs=_costs(summary["cost"]),
        **(_evaluations(folder.evaluations, lines, metric, metrics) if evaluated else {}),
    )


def _evaluations(
    path: Path, lines: Sequence[Mapping[str, Any]], metric: str, metrics: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Accuracy by prompt and its mean at every evaluation, on the prompts of the first, and what each had cost."""
    ids = lines[0].get("prompt_ids", [])
    for number, line in enumerate(lines):
        missing = [key for key in ("prompt_ids", "per_prompt", "rollouts_total", metric) if key not in line]
        if missing:
            raise UsageError(f"{path}:{number + 1}: no {missing[0]}; mend or delete this line")
        if line["prompt_ids"] != ids:
            raise UsageError(f"{path}:{number + 1}: other prompts than in line 1; the run's evaluation set changed")
    cost_E = {
        "rollouts": [line["rollouts_total"] for line in lines],
        "tokens": [
            line["tokens_total"] if "tokens_total" in line else _tokens(metrics, line["step"]) for line in lines
        ],
        "seconds": [line.get("train_seconds") for line in lines],
    }
    return {
        "prompt_ids": tuple(ids),
        "evaluations_EP": np.array([line["per_prompt"] for line in lines], dtype=np.float64),
        "evaluated_E": np.array([line[metric]["value"] for line in lines], dtype=np.float64),
        "cost_E": {axis: np.array(values, dtype=np.float64) for axis, values in cost_E.items() if None not in values},
    }


def _costs(cost: Mapping[str, float]) -> dict[str, float]:
    """The summary's costs by axis, and what they are made of; none of a run without steps."""
    if not cost:
        return {}
    axes = {"rollouts": cost["rollouts_total"], "tokens": cost["tokens_generated"] + cost["tokens_scored"]}
    parts = {name: value for name, value in cost.items() if name != "rollouts_total"}
    return {name: float(value) for name, value in (axes | parts).items()}


def _tokens(metrics: Mapping[str, FloatArray], step: int) -> float | None:
    """Tokens generated and scored in the first `step` steps; None if the metrics do not say."""
    if step == 0:
        return 0.0
    row = int(np.searchsorted(metrics.get("step", np.zeros(0)), step)) - 1
    columns = ("cost/tokens_generated", "cost/tokens_scored")
    if row < 0 or any(name not in metrics for name in columns):
        return None
    total = float(sum(metrics[name][row] for name in columns))
    return total if np.isfinite(total) else None


def _evaluation_run(path: Path, summary: Mapping[str, Any]) -> Run:
    """An evaluation as a run without training; what it evaluated is its recipe."""
    import pyarrow.parquet as pq

    folder, k = EvaluationFolder(path, str(summary["fingerprint"])), int(summary["k"])
    if not folder.samples.is_file():
        raise UsageError(f"{path} has lost its samples.parquet; run the evaluation again with --overwrite")
    table = pq.read_table(folder.samples, columns=["prompt_id", "correct"])
    accuracy_P = table["correct"].to_numpy().reshape(-1, k).mean(axis=1)
    return Run(
        name=path.resolve().name,
        recipe=str(summary["model"]),
        seed=int(summary["seed"]),
        source="eval",
        folder=path,
        config=read_yaml(folder.config),
        metrics={},
        metric=f"avg@{k}",
        prompt_ids=tuple(table["prompt_id"].to_pylist()[::k]),
        evaluations_EP=accuracy_P[None],
        evaluated_E=accuracy_P.mean(keepdims=True),
    )


def _read_summary(path: Path) -> dict[str, Any]:
    """The summary; empty if there is none."""
    if not path.is_file():
        return {}
    return next(row for _, row in objects(path, [path.read_text(encoding="utf-8", errors="replace")]))


def _short(text: str) -> str:
    """A spec with its class alone where it names a file or package."""
    return "+".join(str(Spec(spec.name.rpartition(":")[2], spec.params)) for spec in parse(text))
