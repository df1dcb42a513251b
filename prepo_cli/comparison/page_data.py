"""What the page's charts draw, as plain data for JSON, thinned to what a screen can show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prepo_cli.comparison.recipes import settings
from prepo_cli.comparison.result import Comparison, Curve, Run
from prepo_cli.files import finite
from prepo_cli.statistics import FloatArray

MAX_POINTS, MIN_POINTS, MAX_VALUES = 200, 10, 120_000
"""Points of a curve at most and at least, and values of all training metrics together."""
FIRST = (
    "reward",
    "frac_reward_zero_std",
    "frac_all_correct",
    "frac_all_wrong",
    "entropy",
    "completions/mean_length",
    "temperature",
)
"""The metrics that head the menu; the others follow by name."""
NOT_DRAWN = ("step", "epoch")
LONGEST_VALUE = 300
Columns = Mapping[str, FloatArray]


def chart_data(comparison: Comparison) -> dict[str, Any]:
    """Curves, cost ratios and training metrics of every recipe; recipes are known by their position."""
    runs = {run.name: run for run in comparison.runs}
    columns = [seed_means([runs[name] for name in recipe.runs]) for recipe in comparison.recipes]
    names = drawn_metrics(columns)
    points = min(MAX_POINTS, MAX_VALUES // max(1, len(names) * len(columns)))
    return {
        "target": comparison.target,
        "metric": comparison.metric or "accuracy",
        "recipes": [
            {
                "name": recipe.name,
                "curves": {axis: _curve(curve) for axis, curve in recipe.curves.items() if len(curve.cost_E)},
                "ratios": {axis: vars(ratio) for axis, ratio in recipe.cost_ratios.items()},
                "steps": rounded(thinned(means["step"], points)) if means else [],
                "metrics": {name: rounded(thinned(means[name], points)) for name in names if name in means},
            }
            for recipe, means in zip(comparison.recipes, columns, strict=True)
        ],
        "metrics": names,
    }


def seed_means(runs: Sequence[Run]) -> Columns:
    """Each metric's mean over the runs that have it, [S] over the steps of the longest run, with its `step` column."""
    longest = max((run.steps for run in runs), default=0)
    if not longest:
        return {}
    sums = {name: np.zeros(longest) for name in sorted({name for run in runs for name in run.metrics})}
    counts = {name: np.zeros(longest) for name in sums}
    for run in runs:
        for name, values_S in run.metrics.items():
            known_S = np.isfinite(values_S)
            sums[name][: len(values_S)] += np.where(known_S, values_S, 0.0)
            counts[name][: len(values_S)] += known_S
    means = {name: _ratio(sums[name], counts[name]) for name in sums}
    return {"step": np.arange(longest, dtype=np.float64)} | means


def drawn_metrics(recipes: Sequence[Columns]) -> list[str]:
    """The metrics that take more than one value anywhere, the best known first, as many as the page has room for."""
    names = {name for columns in recipes for name in columns} - set(NOT_DRAWN)
    varying = sorted(name for name in names if _varies(columns[name] for columns in recipes if name in columns))
    first = [name for name in FIRST if name in varying]
    room = MAX_VALUES // (MIN_POINTS * max(1, len(recipes)))
    return (first + [name for name in varying if name not in first])[:room]


def thinned(values_S: FloatArray, points: int) -> FloatArray:
    """Means over `points` stretches of equal length, NaN left out; the values themselves if there are no more.

    >>> thinned(np.array([1.0, 3.0, np.nan, 5.0]), 2)
    array([2., 5.])
    """
    if len(values_S) <= points:
        return values_S
    starts = np.arange(points) * len(values_S) // points
    known_S = np.isfinite(values_S)
    sums = np.add.reduceat(np.where(known_S, values_S, 0.0), starts)
    return _ratio(sums, np.add.reduceat(known_S.astype(np.float64), starts))


def rounded(values: FloatArray, digits: int = 4) -> list[float | None]:
    """Values with so many significant digits, None for what is not finite.

    >>> rounded(np.array([0.123456, 12345.6, np.nan]))
    [0.1235, 12350.0, None]
    """
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]


def differing_settings(comparison: Comparison) -> dict[str, list[str]]:
    """The settings in which recipes differ, with each recipe's value; empty text where a recipe has no such setting."""
    runs = {run.name: run for run in comparison.runs}
    of_recipe = [settings(runs[recipe.runs[0]]) for recipe in comparison.recipes]
    keys = sorted({key for found in of_recipe for key in found})
    values = {key: [_shortened(str(found.get(key, ""))) for found in of_recipe] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def embedded(content: Any) -> str:
    r"""JSON that can't end the script element that holds it.

    >>> embedded({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(finite(content), separators=(",", ":"))  # escapes all but ASCII, so U+2028 and U+2029 too
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _curve(curve: Curve) -> dict[str, list[float | None]]:
    nearest = np.unique(np.linspace(0, len(curve.cost_E) - 1, MAX_POINTS).round().astype(np.int64))
    return {
        "x": rounded(curve.cost_E[nearest], 6),
        "mean": rounded(curve.mean_E[nearest]),
        "low": rounded(curve.low_E[nearest]),
        "high": rounded(curve.high_E[nearest]),
    }


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _varies(columns: Iterable[FloatArray]) -> bool:
    values = np.concatenate(list(columns))
    known = values[np.isfinite(values)]
    return bool(len(known)) and bool(known.min() < known.max())


def _ratio(sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))
