"""How rollouts are weighed over progress, where a weighting does so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prepo_cli.comparison.figures.scene import PROGRESS, Band, Scene
from prepo_cli.comparison.style import log_ticks, panel_size, panels, picture

QUANTILES = ("p0", "p10", "p50", "p90", "p100")


def draw(scene: Scene) -> dict[str, Path]:
    """A panel for each recipe whose weights are not all 1: median, 10 to 90%, and the whole range."""
    from matplotlib.ticker import PercentFormatter

    logged = {quantile: scene.over_progress(f"weighting/{quantile}") for quantile in QUANTILES}
    names = [name for name in logged["p0"] if all(name in bands for bands in logged.values())]
    names = [name for name in names if logged["p50"][name].is_line]
    names = [name for name in names if _varies([logged[quantile][name] for quantile in QUANTILES])]
    if not names:
        return {}
    title, path = "Weights of rollouts: median, 10 to 90%, range", scene.folder / "weights.png"
    positive = all(np.nanmin(logged["p0"][name].mean_X) > 0 for name in names)
    with picture(path, title, *panel_size(len(names))) as figure:
        for axes, name in zip(panels(figure, names, PROGRESS, "weight"), names, strict=True):
            p0, p10, p50, p90, p100 = (logged[quantile][name] for quantile in QUANTILES)
            color = scene.styles[name].color
            axes.fill_between(p0.x_X, p0.mean_X, p100.mean_X, color=color, alpha=0.15, linewidth=0)
            axes.fill_between(p0.x_X, p10.mean_X, p90.mean_X, color=color, alpha=0.35, linewidth=0)
            axes.plot(p50.x_X, p50.mean_X, color=color)
            axes.axhline(1, color="black", linewidth=0.8)
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if positive:
            log_ticks(axes)
    return {title: path}


def _varies(bands: list[Band]) -> bool:
    return any(bool((np.nan_to_num(values.mean_X, nan=1.0) != 1).any()) for values in bands)
