"""Read strangers' runs: TRL's `trainer_state.json` and the JSONL file of verl's file logger.

Their metrics get our names where they mean the same; what a log lacks is left out, or NaN at the steps that lack it.
Neither log says what the run was: there is no seed, and no configuration but TRL's few numbers. Token costs are those
that the logs count, prompts included. Rollouts are known for verl alone, and neither rollouts nor tokens where verl
generates more batches than it logs (DAPO's dynamic sampling).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.comparison.jsonl import read_objects
from prepo_cli.comparison.result import Run
from prepo_cli.errors import UsageError
from prepo_cli.statistics import FloatArray

Row = Mapping[str, Any]
LONGEST_LINE = 2**24
"""Characters of a file's first line that are read to tell whether verl wrote it."""

TRL_STATE = "trainer_state.json"
TRL_METRICS = {
    **{name: name for name in ("reward", "reward_std", "frac_reward_zero_std", "entropy", "kl", "loss", "grad_norm")},
    **{name: name for name in ("learning_rate", "epoch", "completions/mean_length", "completions/clipped_ratio")},
    "completion_length": "completions/mean_length",
    "clip_ratio/low_mean": "clip_ratio/low",
    "clip_ratio/high_mean": "clip_ratio/high",
    "sampling/sampling_logp_difference/mean": "sampling/logp_difference",
    "sampling/sampling_logp_difference/max": "sampling/logp_difference_max",
    "step_time": "timing_s/step",
}
TRL_SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps")
TRL_EVALUATION = re.compile(r"eval_(?:.+_)?reward")
VERL_METRICS = {
    "critic/score/mean": "reward",
    "critic/rewards/mean": "reward",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/kl_loss": "kl",
    "actor/pg_loss": "loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "training/epoch": "epoch",
    "response_length/mean": "completions/mean_length",
    "response_length/clip_ratio": "completions/clipped_ratio",
    "prompt_length/mean": "prompts/mean_length",
    "timing_s/gen": "timing_s/generate",
    "timing_s/reward": "timing_s/reward",
    "timing_s/old_log_prob": "timing_s/logprob",
    "timing_s/update_actor": "timing_s/update",
    "timing_s/update_weights": "timing_s/sync",
    "timing_s/save_checkpoint": "timing_s/checkpoint",
    "timing_s/step": "timing_s/step",
}
VERL_EVALUATION = re.compile(r"val-core/.+/(?:acc|reward)/mean@(\d+)|val/test_score/.+")


def read_foreign(path: Path) -> Run | None:
    """The run of TRL or verl in a folder or file, None if there is none.

    A folder may be TRL's output folder, whose newest checkpoint is read, or hold verl's JSONL file.

    Raises:
        UsageError: the log is damaged, or there are several.
    """
    state = _trl_state(path)
    if state is not None:
        return _trl(state)
    log = _verl_log(path)
    return None if log is None else _verl(log)


def _trl(path: Path) -> Run:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        history: list[Row] = state["log_history"]
        if not all(isinstance(row, dict) for row in history):
            raise TypeError
        rows = [row for row in history if "reward" in row]
        steps_S = _column(rows, "step")
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON; copy it again, or pass another checkpoint") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} has no Trainer log_history; pass the output folder of a GRPOTrainer") from error
    evaluation = next((key for row in history for key in row if TRL_EVALUATION.fullmatch(key)), None)
    if not rows and evaluation is None:
        raise UsageError(f"{path} logs no rewards; pass the output folder of a GRPOTrainer")
    own = {key: key for row in rows for key in row if key.startswith("rewards/")}
    taken_S = np.diff(steps_S, prepend=0.0)  # a row stands for the steps since the last one
    costs = {"tokens": _column(rows, "num_tokens"), "seconds": np.cumsum(_column(rows, "step_time") * taken_S)}
    name = path.parent.parent.name if path.parent.name.startswith("checkpoint-") else path.parent.name
    return _run(
        source="trl",
        name=name,
        folder=path.parent,
        config={"training": {key: state[key] for key in TRL_SETTINGS if state.get(key) is not None}},
        metrics={"step": steps_S - 1, **_columns(rows, TRL_METRICS | own)},
        cost_S=costs,
        steps_S=steps_S,
        evaluations=[(row.get("step"), row.get(evaluation or "")) for row in history],
        metric=evaluation,
    )


def _verl(path: Path) -> Run:
    lines = read_objects(path)
    for number, line in enumerate(lines, 1):
        if not isinstance(line.get("data"), dict) or not isinstance(line.get("step"), int):
            raise UsageError(
                f"{path}:{number}: lacks the step and data that verl's file logger writes; delete this line"
            )
    rows = [line["data"] | {"step": line["step"]} for line in lines if "timing_s/step" in line["data"]]
    steps_S = _column(rows, "step")
    tokens_S, prompt_S, response_S = (
        _column(rows, key) for key in ("perf/total_num_tokens", "prompt_length/mean", "response_length/mean")
    )
    costs = {"seconds": np.cumsum(_column(rows, "timing_s/step"))}
    if not any("train/num_gen_batches" in row for row in rows):
        # All lengths of a batch add up to its tokens, which gives the number of its rollouts.
        costs |= {"tokens": np.cumsum(tokens_S), "rollouts": np.cumsum(np.round(tokens_S / (prompt_S + response_S)))}
    evaluated = [(line["step"], _accuracies(line["data"])) for line in lines]
    return _run(
        source="verl",
        name=path.stem,
        folder=path.parent,
        config={},
        metrics={"step": steps_S - 1, **_columns(rows, VERL_METRICS)},
        cost_S=costs,
        steps_S=steps_S,
        evaluations=[(step, np.mean(list(found.values()))) for step, found in evaluated if found],
        metric=_metric({key for _, found in evaluated for key in found}),
    )


def _run(
    *,
    source: Any,
    name: str,
    folder: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, FloatArray],
    cost_S: Mapping[str, FloatArray],
    steps_S: FloatArray,
    evaluations: Sequence[tuple[Any, Any]],
    metric: str | None,
) -> Run:
    """The run; what an evaluation had cost is interpolated between the steps that were logged."""
    points_E2 = np.array([(_number(step), _number(value)) for step, value in evaluations]).reshape(-1, 2)
    step_E, evaluated_E = points_E2[np.isfinite(points_E2).all(axis=1)].T
    known = {axis: column_S for axis, column_S in cost_S.items() if len(column_S) and np.isfinite(column_S).all()}
    ours = {"rollouts": "cost/rollouts_total", "seconds": "cost/seconds"}
    return Run(
        name=name,
        recipe=f"{'TRL' if source == 'trl' else 'verl'} ({name})",
        seed=None,
        source=source,
        folder=folder,
        config=config,
        metrics={**metrics, **{ours[axis]: column_S for axis, column_S in known.items() if axis in ours}},
        metric=metric if len(step_E) else None,
        evaluated_E=evaluated_E if len(step_E) else None,
        cost_E={axis: np.interp(step_E, [0, *steps_S], [0, *column_S]) for axis, column_S in known.items()},
        costs={axis: float(column_S[-1]) for axis, column_S in known.items()},
    )


def _trl_state(path: Path) -> Path | None:
    """The newest `trainer_state.json`: the output folder's own, else the last checkpoint's."""
    if path.name == TRL_STATE or (path / TRL_STATE).is_file():
        return path if path.name == TRL_STATE else path / TRL_STATE
    names = {state: state.parent.name.removeprefix("checkpoint-") for state in path.glob(f"checkpoint-*/{TRL_STATE}")}
    steps = {int(step): state for state, step in names.items() if step.isdecimal()}
    return steps[max(steps)] if steps else None


def _verl_log(path: Path) -> Path | None:
    logs = [log for log in ([path] if path.is_file() else sorted(path.glob("*.jsonl"))) if _is_verl(log)]
    if len(logs) > 1:
        raise UsageError(f"{path} contains several logs ({', '.join(log.name for log in logs)}); pass one of them")
    return logs[0] if logs else None


def _is_verl(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            first = json.loads(file.readline(LONGEST_LINE))
        except (ValueError, RecursionError):
            return False
    return isinstance(first, dict) and "step" in first and isinstance(first.get("data"), dict)


def _accuracies(data: Row) -> dict[str, float]:
    """Held-out accuracy by data source; the means over sources weigh them alike, since their sizes are not logged."""
    return {key: _number(value) for key, value in data.items() if VERL_EVALUATION.fullmatch(key)}


def _metric(keys: set[str]) -> str | None:
    """The metric's name: avg@k, where all data sources were sampled k times.

    >>> _metric({"val-core/aime/acc/mean@8", "val-core/math/acc/mean@8"})
    'avg@8'
    """
    samples = {match[1] for key in keys if (match := VERL_EVALUATION.fullmatch(key))}
    if len(samples) == 1 and None not in samples:
        return f"avg@{samples.pop()}"
    return "validation score" if keys else None


def _columns(rows: Sequence[Row], names: Mapping[str, str]) -> dict[str, FloatArray]:
    """Columns under our names; of several foreign names for one, the first that is logged counts."""
    logged = {key for row in rows for key in row}
    found: dict[str, FloatArray] = {}
    for theirs, ours in names.items():
        if theirs in logged and ours not in found:
            found[ours] = _column(rows, theirs)
    return found


def _column(rows: Sequence[Row], key: str) -> FloatArray:
    return np.array([_number(row.get(key)) for row in rows], dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
