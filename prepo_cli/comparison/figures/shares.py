"""Shares of groups without a learning signal, over progress."""

from __future__ import annotations

from pathlib import Path

from prepo_cli.comparison.figures.scene import PROGRESS, Scene
from prepo_cli.comparison.style import FEW, picture

SHARES = {
    "frac_reward_zero_std": "zero variance",
    "frac_all_correct": "all correct",
    "frac_all_wrong": "all wrong",
}


def draw(scene: Scene) -> dict[str, Path]:
    """A panel for each share: mean over seeds, with their range where the recipes are few."""
    from matplotlib.ticker import PercentFormatter

    logged = {metric: scene.over_progress(metric) for metric in SHARES}
    logged = {metric: bands for metric, bands in logged.items() if bands}
    if not logged:
        return {}
    title, path = "Groups without a learning signal", scene.folder / "zero_variance.png"
    names = [r.name for r in scene.comparison.recipes if any(r.name in bands for bands in logged.values())]
    with picture(path, title, 8.0, 1.0 + 2.2 * len(logged)) as figure:
        column = figure.subplots(len(logged), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (metric, bands) in zip(column, logged.items(), strict=True):
            for name, values in bands.items():
                scene.draw_band(axes, name, values, shaded=len(names) <= FEW)
            axes.set_ylabel(f"{SHARES[metric]}\n(share of groups)")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xlim(0, 1)
        column[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        column[-1].set_xlabel(PROGRESS)
        scene.legend(figure, names)
    return {title: path}
