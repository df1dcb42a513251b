"""Forest plot: what each recipe spends to reach the baseline's final accuracy, as a multiple of the baseline's cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prepo_cli.comparison.figures.scene import Scene
from prepo_cli.comparison.result import AXES, CostRatio, Recipe
from prepo_cli.comparison.style import BLACK, label, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

NARROWEST, WIDEST = 1 / 64, 64.0
"""Ratios beyond these are drawn at the edge: one recipe that saves nothing must not flatten the others."""


def draw(scene: Scene) -> dict[str, Path]:
    """One panel for each cost; a row for each recipe. Arrows point to where an interval has no end."""
    recipes = [recipe for recipe in scene.comparison.recipes if recipe.cost_ratios]
    costs = [axis for axis in AXES if any(axis in recipe.cost_ratios for recipe in recipes)]
    if not recipes:
        return {}
    baseline, target = label(scene.comparison.baseline), scene.comparison.target
    goal = f"{baseline}'s final accuracy" if scene.comparison.target_is_final else f"an accuracy of {target:.3g}"
    title = f"Cost of reaching {goal}"
    path = scene.folder / "cost_ratios.png"
    with picture(path, title, 3.0 + 3.2 * len(costs), 1.2 + 0.32 * len(recipes)) as figure:
        grid = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axes, axis in zip(grid, costs, strict=True):
            _panel(scene, axes, axis, recipes)
        figure.supxlabel(f"multiple of {baseline}'s cost (log scale)", fontsize=9)
    return {title: path}


def _panel(scene: Scene, axes: Axes, axis: str, recipes: list[Recipe]) -> None:
    ratios = [recipe.cost_ratios.get(axis) for recipe in recipes]
    known = [ratio for ratio in ratios if ratio is not None]
    low, high = limits(known)
    for row, (recipe, ratio) in enumerate(zip(recipes, ratios, strict=True)):
        if ratio is not None:
            _row(scene, axes, row, recipe.name, ratio, low, high)
    axes.axvline(1, color=BLACK, linewidth=0.9)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    ratio_ticks(axes.xaxis)
    axes.set_yticks(range(len(recipes)), [label(recipe.name) for recipe in recipes])
    axes.set_ylim(len(recipes) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_title(AXES[axis])


def ratio_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis of ratios: 1/4, 1/2, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=2, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))


def _row(scene: Scene, axes: Axes, row: int, name: str, ratio: CostRatio, low: float, high: float) -> None:
    style = scene.styles[name]
    begin, end = (min(max(x, low), high) for x in (ratio.low, high if ratio.high is None else ratio.high))
    axes.plot([begin, end], [row, row], color=style.color, linewidth=1.6)
    if ratio.high is None:
        axes.plot([high], [row], color=style.color, marker=">", markersize=6, clip_on=False)
    if ratio.value is not None:
        axes.plot([min(max(ratio.value, low), high)], [row], color=style.color, marker=style.marker, markersize=6)
    place = axes.get_yaxis_transform()
    axes.text(1.05, row, ratio.text, transform=place, verticalalignment="center", fontsize=8)


def limits(ratios: list[CostRatio]) -> tuple[float, float]:
    """Ends of the axis: powers of two around 1 and every finite end of an interval.

    >>> limits([CostRatio(0.4, 0.3, 0.9, 1.0), CostRatio(None, 1.5, None, 0.1)])
    (0.25, 2.0)
    """
    import math

    ends = [1.0] + [x for ratio in ratios for x in (ratio.value, ratio.low, ratio.high) if x is not None and x > 0]
    low, high = 2.0 ** math.floor(math.log2(min(ends))), 2.0 ** math.ceil(math.log2(max(ends)))
    return max(NARROWEST, min(low, 0.5)), min(WIDEST, max(high, 2.0))
