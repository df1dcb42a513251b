"""What every picture draws from: the comparison, its styles, and its metrics over training progress by recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prepo_cli.comparison.groups import Groups, sample_groups
from prepo_cli.comparison.result import Comparison, Recipe, Run
from prepo_cli.comparison.style import Style, label, styles
from prepo_cli.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS, FEWEST_POINTS, SMOOTHED_STEPS = 25, 5, 4
"""A curve over progress has about a point for each `SMOOTHED_STEPS` steps, between these two."""
PROGRESS = "training progress (share of steps)"


@dataclass(frozen=True)
class Band:
    """A recipe's values [X]: mean over its runs, and the lowest and highest of them."""

    x_X: FloatArray
    mean_X: FloatArray
    low_X: FloatArray
    high_X: FloatArray

    @property
    def is_line(self) -> bool:
        """Whether there are two points to draw a line between; panels without markers would stay empty."""
        return int(np.isfinite(self.mean_X).sum()) > 1


@dataclass(frozen=True)
class Scene:
    """A comparison about to be drawn into a folder."""

    comparison: Comparison
    folder: Path

    @cached_property
    def styles(self) -> dict[str, Style]:
        """How each recipe is drawn."""
        return styles(self.comparison)

    @cached_property
    def groups(self) -> dict[str, Groups]:
        """Sampled groups by run name."""
        return sample_groups(self.comparison.runs)

    @cached_property
    def _runs(self) -> dict[str, Run]:
        return {run.name: run for run in self.comparison.runs}

    def runs(self, recipe: Recipe) -> list[Run]:
        """The recipe's runs."""
        return [self._runs[name] for name in recipe.runs]

    def over_progress(self, metric: str) -> dict[str, Band]:
        """A metric over progress by recipe; recipes whose runs never logged it are left out."""
        found = {}
        for recipe in self.comparison.recipes:
            logged = [run.metrics[metric] for run in self.runs(recipe) if metric in run.metrics]
            logged = [values_S for values_S in logged if np.isfinite(values_S).any()]
            if logged:
                shortest = min(map(len, logged))
                points = max(min(FEWEST_POINTS, shortest), min(MOST_POINTS, shortest // SMOOTHED_STEPS))
                found[recipe.name] = band((np.arange(points) + 0.5) / points, by_progress(logged, points))
        return found

    def legend(self, figure: Figure, names: Sequence[str], more: Sequence[Any] = ()) -> None:
        """Name the recipes, and what the handles `more` stand for, right of the panels."""
        from matplotlib.lines import Line2D

        handles = [self.line(name, Line2D, [], []) for name in names]
        figure.legend(handles=[*handles, *more], loc="outside right upper")

    def line(self, name: str, make: Any, x: Any, y: Any) -> Any:
        """Call `make(x, y, ...)` with the recipe's label and style, and a dozen markers at most."""
        return make(x, y, label=label(name), markevery=1 + len(x) // 12, **self.styles[name].line)

    def draw_band(self, axes: Axes, name: str, values: Band, *, shaded: bool) -> None:
        """A recipe's mean as a line and, if `shaded` and there are several runs, its range."""
        if shaded and not np.array_equal(values.low_X, values.high_X, equal_nan=True):
            color = self.styles[name].color
            axes.fill_between(values.x_X, values.low_X, values.high_X, color=color, alpha=0.15, linewidth=0)
        self.line(name, axes.plot, values.x_X, values.mean_X)


def by_progress(logged: Sequence[FloatArray], points: int) -> FloatArray:
    """Each run's means over `points` equal shares of its steps [R, X], NaN where a share has no value.

    >>> by_progress([np.array([0.0, 2.0, 4.0, 6.0]), np.array([1.0, np.nan, np.nan, np.nan])], 2).tolist()
    [[1.0, 5.0], [1.0, nan]]
    """
    values_RX = np.full((len(logged), points), np.nan)
    for row_X, values_S in zip(values_RX, logged, strict=True):
        known_S = np.isfinite(values_S)
        share_S = (np.arange(len(values_S)) * points // len(values_S))[known_S]
        counts_X = np.bincount(share_S, minlength=points)
        sums_X = np.bincount(share_S, weights=values_S[known_S], minlength=points)
        np.divide(sums_X, counts_X, out=row_X, where=counts_X > 0)
    return values_RX


def band(x_X: FloatArray, values_RX: FloatArray) -> Band:
    """Mean, lowest and highest over the runs that have a value.

    >>> band(np.arange(2.0), np.array([[1.0, 2.0], [3.0, np.nan]])).mean_X.tolist()
    [2.0, 2.0]
    """
    known_X = np.isfinite(values_RX).sum(axis=0)
    mean_X = np.divide(np.nansum(values_RX, axis=0), known_X, out=np.full(len(x_X), np.nan), where=known_X > 0)
    return Band(x_X, mean_X, np.fmin.reduce(values_RX), np.fmax.reduce(values_RX))
