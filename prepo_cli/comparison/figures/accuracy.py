"""Held-out accuracy against what was spent: one picture for each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prepo_cli.comparison.figures.scene import Band, Scene
from prepo_cli.comparison.result import AXES, Curve
from prepo_cli.comparison.style import FEW, GREY, PALE, panel_size, panels, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(scene: Scene) -> dict[str, Path]:
    """One curve with its 95% band for each recipe; more than a few recipes get panels with the baseline in each."""
    drawn = {}
    for axis, xlabel in AXES.items():
        curves = {r.name: r.curves[axis] for r in scene.comparison.recipes if axis in r.curves}
        curves = {name: curve for name, curve in curves.items() if len(curve.cost_E)}
        if curves:
            title = f"Accuracy against {xlabel}"
            drawn[title] = scene.folder / f"accuracy_{axis}.png"
            (_together if len(curves) <= FEW else _apart)(scene, drawn[title], title, xlabel, curves)
    return drawn


def _together(scene: Scene, path: Path, title: str, xlabel: str, curves: Mapping[str, Curve]) -> None:
    best_first = sorted(curves, key=lambda name: -curves[name].mean_E[-1])
    with picture(path, title, 8.0, 4.2) as figure:
        axes = figure.subplots()
        for name in curves:
            _curve(scene, axes, name, curves[name])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(_accuracy(scene))
        _finish(scene, axes, curves)
        scene.legend(figure, best_first, more=_target(scene))


def _apart(scene: Scene, path: Path, title: str, xlabel: str, curves: Mapping[str, Curve]) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    baseline = scene.comparison.baseline
    names = [name for name in curves if name != baseline]
    others = [np.column_stack([curve.cost_E, curve.mean_E]) for curve in curves.values()]
    with picture(path, title, *panel_size(len(names))) as figure:
        for axes, name in zip(panels(figure, names, xlabel, _accuracy(scene)), names, strict=True):
            axes.add_collection(LineCollection(others, color=PALE, linewidth=0.7))
            if baseline in curves:
                _curve(scene, axes, baseline, curves[baseline])
            _curve(scene, axes, name, curves[name])
            _finish(scene, axes, curves)
        handles = [scene.line(baseline, Line2D, [], [])] if baseline in curves else []
        handles += [Line2D([], [], color=PALE, linewidth=0.7, label="other recipes"), *_target(scene)]
        figure.legend(handles=handles, loc="outside lower right", ncols=3)


def _curve(scene: Scene, axes: Axes, name: str, curve: Curve) -> None:
    values = Band(curve.cost_E, curve.mean_E, curve.low_E, curve.high_E)
    scene.draw_band(axes, name, values, shaded=True)


def _finish(scene: Scene, axes: Axes, curves: Mapping[str, Curve]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_ylim(*limits(list(curves.values())))

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if scene.comparison.target is not None:
        axes.axhline(scene.comparison.target, color=GREY, linewidth=0.8, zorder=0.9)


def limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Ends of the accuracy axis: means and bands, which are cut where two seeds make them endlessly wide.

    >>> ones = np.ones(2)
    >>> limits([Curve(ones, np.array([0.4, 0.6]), np.array([0.0, 0.55]), np.array([0.42, 1.0]))])
    (0.3, 0.7)
    """
    means = np.concatenate([curve.mean_E for curve in curves])
    low, high = float(means.min()), float(means.max())
    room = max(0.5 * (high - low), 0.01)
    lowest = min(float(curve.low_E.min()) for curve in curves)
    highest = max(float(curve.high_E.max()) for curve in curves)
    ends = max(lowest - 0.1 * room, low - room), min(highest + 0.1 * room, high + room)
    return round(ends[0], 6), round(ends[1], 6)


def _target(scene: Scene) -> list[Any]:
    from matplotlib.lines import Line2D

    target = scene.comparison.target
    return [] if target is None else [Line2D([], [], color=GREY, linewidth=0.8, label=f"target {target:.3f}")]


def _accuracy(scene: Scene) -> str:
    metric = scene.comparison.metric
    return "held-out accuracy" if metric is None else f"held-out accuracy ({metric})"
