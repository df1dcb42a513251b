"""Where rollouts are spent: rollouts per group against the group's pass rate, for recipes whose budgets vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prepo_cli.comparison.figures.scene import Scene, band
from prepo_cli.comparison.groups import Groups, by_bin
from prepo_cli.comparison.style import picture
from prepo_cli.statistics import FloatArray
from strategies.types import IntArray

BINS = ("none", "up to 25%", "up to 50%", "up to 75%", "over 75%", "all")


def draw(scene: Scene) -> dict[str, Path]:
    """Mean rollouts per group by pass rate, over all sampled steps."""
    varied = {}
    for recipe in scene.comparison.recipes:
        sampled = [scene.groups[run] for run in recipe.runs if run in scene.groups]
        if any(groups.size_G.min() < groups.size_G.max() for groups in sampled):
            sizes_RB = np.stack([_mean_sizes(groups) for groups in sampled])
            varied[recipe.name] = band(np.arange(float(len(BINS))), sizes_RB)
    if not varied:
        return {}
    title, path = "Rollouts by difficulty", scene.folder / "budgets.png"
    with picture(path, title, 8.0, 3.8) as figure:
        axes = figure.subplots()
        for name, values in varied.items():
            scene.draw_band(axes, name, values, shaded=len(varied) <= 3)
        axes.set_xticks(range(len(BINS)), BINS)
        axes.set_xlabel("correct rollouts in the group")
        axes.set_ylabel("rollouts per group")
        axes.set_ylim(bottom=0)
        scene.legend(figure, list(varied))
    return {title: path}


def difficulty_bin(pass_rate_G: FloatArray) -> IntArray:
    """The bin of each pass rate: none, four quarters of what lies between, all.

    >>> difficulty_bin(np.array([0.0, 0.25, 0.3, 0.9, 1.0])).tolist()
    [0, 1, 2, 4, 5]
    """
    return np.asarray(np.ceil(pass_rate_G * 4) + (pass_rate_G == 1), dtype=np.int64)


def _mean_sizes(groups: Groups) -> FloatArray:
    return by_bin(difficulty_bin(groups.pass_rate_G), groups.size_G, len(BINS))
