"""The sampling temperature over progress, where a schedule changes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prepo_cli.comparison.figures.scene import PROGRESS, Scene
from prepo_cli.comparison.style import FEW, picture


def draw(scene: Scene) -> dict[str, Path]:
    """The recipes whose temperature changes."""
    from matplotlib.ticker import PercentFormatter

    bands = scene.over_progress("temperature")
    bands = {name: values for name, values in bands.items() if np.nanmax(values.mean_X) > np.nanmin(values.mean_X)}
    if not bands:
        return {}
    title, path = "Sampling temperature", scene.folder / "temperature.png"
    with picture(path, title, 8.0, 3.6) as figure:
        axes = figure.subplots()
        for name, values in bands.items():
            scene.draw_band(axes, name, values, shaded=len(bands) <= FEW)
        axes.set_xlabel(PROGRESS)
        axes.set_ylabel("temperature")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        scene.legend(figure, list(bands))
    return {title: path}
