"""Where time and tokens go: seconds per step by phase, what selection takes of them, tokens generated and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prepo_cli.comparison.figures.scene import Scene
from prepo_cli.comparison.result import Recipe
from prepo_cli.comparison.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, label, picture
from prepo_cli.statistics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES = {
    "select": (VERMILION, "///"),
    "generate": (SKY, ""),
    "reward": (GREEN, "..."),
    "logprob": (ORANGE, "\\\\\\"),
    "update": (BLUE, ""),
    "sync": (PURPLE, "xxx"),
    "checkpoint": (GREY, ""),
}
TOKENS = {"tokens_generated": ("generated", SKY, ""), "tokens_scored": ("scored", VERMILION, "///")}


def draw(scene: Scene) -> dict[str, Path]:
    """Stacked bars, a row for each recipe, means over its runs."""
    recipes = [recipe for recipe in scene.comparison.recipes if _logged(scene, recipe)]
    phases_RP = np.array([[_mean(scene, r, f"timing_s/{phase}") for phase in PHASES] for r in recipes])
    tokens_RT = np.array([[_total(scene, r, f"cost/{name}") for name in TOKENS] for r in recipes])
    sides = [side for side, values in (("time", phases_RP), ("tokens", tokens_RT)) if np.nansum(values) > 0]
    if not sides:
        return {}
    title, path = f"{' and '.join(sides).capitalize()} by phase", scene.folder / "phases.png"
    with picture(path, title, 2.0 + 5.0 * len(sides), 1.5 + 0.32 * len(recipes)) as figure:
        for axes, side in zip(figure.subplots(1, len(sides), sharey=True, squeeze=False)[0], sides, strict=True):
            if side == "time":
                _time(axes, phases_RP)
            else:
                _tokens(axes, tokens_RT)
            axes.set_yticks(range(len(recipes)), [label(recipe.name) for recipe in recipes])
            axes.set_ylim(len(recipes) - 0.4, -0.6)
            axes.grid(False, axis="y")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, handlelength=1.5)
    return {title: path}


def _logged(scene: Scene, recipe: Recipe) -> bool:
    columns = {f"timing_s/{phase}" for phase in PHASES} | {f"cost/{name}" for name in TOKENS}
    return any(columns & run.metrics.keys() for run in scene.runs(recipe))


def _time(axes: Axes, seconds_RP: FloatArray) -> None:
    known_RP = np.nan_to_num(seconds_RP)
    for (phase, (color, hatch)), width_R, left_R in zip(PHASES.items(), known_RP.T, _lefts(known_RP), strict=True):
        if width_R.any():
            _bars(axes, width_R, left_R, phase, color, hatch)
    for row, (select, total) in enumerate(zip(known_RP[:, 0], known_RP.sum(axis=1), strict=True)):
        if total and np.isfinite(seconds_RP[row, 0]):
            axes.annotate(
                f"{select / total:.0%} select",
                (total, row),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_xlabel("seconds per step")
    axes.set_xlim(0, known_RP.sum(axis=1).max() * 1.2)


def _tokens(axes: Axes, tokens_RT: FloatArray) -> None:
    from matplotlib.ticker import EngFormatter

    known_RT = np.nan_to_num(tokens_RT)
    for (name, color, hatch), width_R, left_R in zip(TOKENS.values(), known_RT.T, _lefts(known_RT), strict=True):
        _bars(axes, width_R, left_R, name, color, hatch)
    axes.set_xlabel("tokens in a whole run")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _bars(axes: Axes, width_R: FloatArray, left_R: FloatArray, name: str, color: str, hatch: str) -> None:
    rows = np.arange(len(width_R))
    axes.barh(rows, width_R, 0.7, left_R, color=color, hatch=hatch, edgecolor="white", linewidth=0.5, label=name)


def _lefts(values_RC: FloatArray) -> FloatArray:
    """Where each bar begins [C, R]."""
    return (np.cumsum(values_RC, axis=1) - values_RC).T


def _mean(scene: Scene, recipe: Recipe, metric: str) -> float:
    values = [run.metrics[metric] for run in scene.runs(recipe) if metric in run.metrics]
    known = np.concatenate([np.zeros(0), *values])
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else np.nan


def _total(scene: Scene, recipe: Recipe, metric: str) -> float:
    columns = [run.metrics[metric] for run in scene.runs(recipe) if metric in run.metrics]
    known = [column[np.isfinite(column)] for column in columns]
    ends = [float(column[-1]) for column in known if len(column)]
    return float(np.mean(ends)) if ends else np.nan
