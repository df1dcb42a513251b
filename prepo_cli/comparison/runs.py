"""Read runs from disk: run folders, the folders of `prepo eval`, and strangers' logs.

`metrics.jsonl` and `evaluations.jsonl` may be gzipped; neither checkpoints nor rollouts are needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.comparison.foreign import read_foreign
from prepo_cli.comparison.jsonl import read_columns, read_objects
from prepo_cli.comparison.result import Run
from prepo_cli.comparison.schema import (
    Cost,
    EvaluationLine,
    EvaluationSummary,
    StartedSummary,
    TrainingSummary,
    checked,
    read_config,
)
from prepo_cli.config import CUSTOM
from prepo_cli.errors import UsageError, one_line
from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.recipes import recipe_name
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.statistics import FloatArray
from strategies.errors import StrategyError
from strategies.registry import Spec, parse
from strategies.strategy_set import SLOT_DEFAULTS, resolve_slots

SUMMARY = "summary.json"
COPY_AGAIN = "copy it again from the original run"


def read_run(path: Path) -> Run:
    """A finished run.

    Raises:
        UsageError: there is no run, it is unfinished, or a file is damaged.
    """
    try:
        return _read(path)
    except OSError as error:
        raise UsageError(f"can't read {error.filename or path} ({error.strerror}); check the path") from error


def _read(path: Path) -> Run:
    if not path.exists():
        raise UsageError(f"no such run folder: {path}")
    summary = read_summary(path / SUMMARY)
    if "strategies" in summary:
        return _training_run(path, summary)
    if "fingerprint" in summary:
        return _evaluation_run(path, summary)
    run = read_foreign(path)
    if run is not None:
        return run
    if summary:
        raise UsageError(f"{path / SUMMARY}: lacks strategies and fingerprint; {COPY_AGAIN}")
    if (path / "config.yaml").is_file():
        raise UsageError(f"the run in {path} is unfinished; finish it with: prepo train --resume --output-dir {path}")
    if (path / "partial").is_dir():
        raise UsageError(f"the evaluation in {path} is unfinished; run its prepo eval command again to finish it")
    raise UsageError(
        f"{path} is neither a run nor an evaluation; pass the --output-dir of a finished prepo train or prepo eval, "
        "or a TRL or verl log"
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
        return recipe_name(recipe)
    selector = slots["selector"]
    try:
        brought = resolve_slots({"selector": selector})
    except StrategyError:  # a class that this machine lacks
        brought = SLOT_DEFAULTS | {"selector": selector}
    others = [text for slot, text in slots.items() if slot != "selector" and text != brought[slot]]
    return " + ".join(map(_short, [selector, *others]))


def _training_run(path: Path, content: Mapping[str, Any]) -> Run:
    model = StartedSummary if content.get("cost") == {} else TrainingSummary
    summary = checked(model, content, str(path / SUMMARY), COPY_AGAIN)
    folder, metric = RunFolder(path), summary.metric
    metrics, lines = read_columns(folder.metrics), read_objects(folder.evaluations)
    last = np.nan_to_num(metrics["step"][-1], nan=-1) + 1 if "step" in metrics else 0
    if summary.steps is not None and last != summary.steps:
        raise UsageError(f"{folder.metrics} has only {last:,.0f} of {summary.steps:,} steps; {COPY_AGAIN}")
    evaluated = bool(lines) and lines[-1].get("step") != 0  # what was measured before training says nothing of it
    if summary.after is not None and not evaluated:
        raise UsageError(f"{folder.evaluations} lacks the evaluation after training; {COPY_AGAIN}")
    return Run(
        name=path.resolve().name,
        recipe=recipe_label(summary.recipe, summary.strategies),
        seed=summary.seed,
        source="prepo",
        folder=path,
        config=read_config(folder.config),
        metrics=metrics,
        metric=metric,
        costs=_costs(summary.cost) if isinstance(summary, TrainingSummary) else {},
        **(_evaluations(folder.evaluations, lines, metric, metrics) if evaluated else {}),
    )


def _evaluations(
    path: Path, lines: Sequence[Mapping[str, Any]], metric: str, metrics: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Accuracy by prompt and its mean at every evaluation, on the prompts of the first, and what each had cost."""
    rows = [_evaluation(f"{path}:{number}", line, metric) for number, line in enumerate(lines, 1)]
    ids = rows[0].prompt_ids
    if not all(isinstance(name, str) for name in ids):
        raise UsageError(f"{path}:1: prompt_ids are not all text; {COPY_AGAIN}")
    for number, row in enumerate(rows, 1):
        if row.prompt_ids != ids:
            raise UsageError(f"{path}:{number}: different prompts than in line 1; the run's evaluation set changed")
    cost_E: dict[str, list[float | None]] = {
        "rollouts": [row.rollouts_total for row in rows],
        "tokens": [_tokens(metrics, row.step) if row.tokens_total is None else row.tokens_total for row in rows],
        "seconds": [row.train_seconds for row in rows],
    }
    return {
        "prompt_ids": tuple(ids),
        "evaluations_EP": np.array([_accuracies(f"{path}:{n}", row, len(ids)) for n, row in enumerate(rows, 1)]),
        "evaluated_E": np.array([row.accuracy.value for row in rows], dtype=np.float64),
        "cost_E": {axis: np.array(values, dtype=np.float64) for axis, values in cost_E.items() if None not in values},
    }


def _evaluation(place: str, line: Mapping[str, Any], metric: str) -> EvaluationLine:
    cure = "fix or delete this line"
    if metric not in line:
        raise UsageError(f"{place}: no {metric}; {cure}")
    return checked(EvaluationLine, {**line, "accuracy": line[metric]}, place, cure)


def _accuracies(place: str, row: EvaluationLine, prompts: int) -> FloatArray:
    """The accuracy of every prompt [P]."""
    try:
        values_P = np.array(row.per_prompt)
    except ValueError:  # lists of several lengths
        values_P = np.array(None)
    if values_P.shape != (prompts,) or values_P.dtype.kind not in "if" or not np.isfinite(values_P).all():
        raise UsageError(f"{place}: per_prompt is not one number for each of {prompts:,} prompts; {COPY_AGAIN}")
    return values_P.astype(np.float64)


def _costs(cost: Cost) -> dict[str, float]:
    """The summary's costs by axis, and what they are made of."""
    axes = {"rollouts": cost.rollouts_total, "tokens": cost.tokens_generated + cost.tokens_scored}
    return axes | {name: value for name, value in cost.model_dump().items() if name != "rollouts_total"}


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


def _evaluation_run(path: Path, content: Mapping[str, Any]) -> Run:
    """An evaluation as a run without training; what it evaluated is its recipe."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = "run the evaluation again with --overwrite"
    summary = checked(EvaluationSummary, content, str(path / SUMMARY), again)
    folder = EvaluationFolder(path, summary.fingerprint)
    if not folder.samples.is_file():
        raise UsageError(f"{path} has no samples.parquet; {again}")
    try:
        table = pq.read_table(folder.samples, columns=["prompt_id", "correct"])
        accuracy_P = table["correct"].cast(pa.bool_()).to_numpy().reshape(-1, summary.k).mean(axis=1)
        prompt_ids = tuple(map(str, table["prompt_id"].to_pylist()[:: summary.k]))
    except (OSError, ValueError, KeyError) as error:  # the first two are also pyarrow's
        raise UsageError(f"{folder.samples} is damaged ({one_line(error)}); {again}") from error
    return Run(
        name=path.resolve().name,
        recipe=summary.model,
        seed=summary.seed,
        source="eval",
        folder=path,
        config=read_config(folder.config),
        metrics={},
        metric=f"avg@{summary.k}",
        prompt_ids=prompt_ids,
        evaluations_EP=accuracy_P[None],
        evaluated_E=accuracy_P.mean(keepdims=True),
    )


def read_summary(path: Path) -> dict[str, Any]:
    """The summary; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a JSON object; {COPY_AGAIN}")
    return content


def _short(text: str) -> str:
    """A spec with its class alone where it names a file or package."""
    return "+".join(str(Spec(spec.name.rpartition(":")[2], spec.params)) for spec in parse(text))
