"""One style for all pictures: Okabe and Ito's color-blind-safe colors, with a dash and a marker for grey print.

Every picture is saved as PNG and as SVG with text as text; the same data give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepo_cli.comparison.result import Comparison
from prepo_cli.files import atomic_path
from prepo_cli.reporting.figures import drawable, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY, PALE = "#000000", "#8C8C8C", "#D9D9D9"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[tuple[float, ...], ...] = ((6, 2), (1.2, 1.4), (8, 2, 1.5, 2), (3, 1.5), (6, 1.5, 1.2, 1.5, 1.2, 1.5))
MARKERS = "osD^vPX"
FEW = 6
"""Up to this many recipes share a panel with their bands; more get panels of their own, or lines alone."""
PANEL_COLUMNS = 4
LONGEST_LABEL = 36
DPI = 150
DRAWING: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "prepo",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Style:
    """How a recipe is drawn in every picture: matplotlib's color, line style and marker."""

    color: str
    linestyle: Any
    marker: str
    linewidth: float = 1.6

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of a line."""
        return {"color": self.color, "linestyle": self.linestyle, "linewidth": self.linewidth, "marker": self.marker}


def styles(comparison: Comparison) -> dict[str, Style]:
    """The style of each recipe: the baseline solid black, the others distinct up to 30 recipes."""
    others = [recipe.name for recipe in comparison.recipes if recipe.name != comparison.baseline]
    return {comparison.baseline: Style(BLACK, "-", "o", 2.0)} | distinct(others)


def distinct(names: Sequence[str]) -> dict[str, Style]:
    """Styles that differ for up to 30 names, and in color for the first six."""
    return {
        name: Style(COLORS[i % len(COLORS)], (0.0, DASHES[i % len(DASHES)]), MARKERS[(i + 1) % len(MARKERS)])
        for i, name in enumerate(names)
    }


@contextmanager
def picture(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    """Yield a new figure, in inches; save it as `path`, a PNG, and beside it as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **DRAWING}):
        figure, layout = Figure(figsize=(width, height), dpi=DPI), ConstrainedLayoutEngine()
        figure.set_layout_engine(layout)
        figure.suptitle(title, x=0.012, horizontalalignment="left")
        yield figure
        layout.execute(figure)
        figure.set_layout_engine(None)  # which savefig would run for each file, with a drawing to throw away
        for target, metadata in ((path, {"Software": None}), (path.with_suffix(".svg"), {"Date": None})):
            with atomic_path(target) as temporary:
                figure.savefig(temporary, metadata=metadata)


def panel_grid(count: int) -> tuple[int, int]:
    """Rows and columns of `count` panels, as even as they fit.

    >>> panel_grid(3), panel_grid(5), panel_grid(12)
    ((1, 3), (2, 3), (3, 4))
    """
    rows = math.ceil(count / PANEL_COLUMNS)
    return rows, math.ceil(count / rows)


def panel_size(count: int) -> tuple[float, float]:
    """Width and height in inches of a figure with `count` panels, the title and the outer labels."""
    rows, columns = panel_grid(count)
    return max(6.5, 1.0 + 2.6 * columns), 1.1 + 2.0 * rows


def panels(figure: Figure, names: Sequence[str], xlabel: str, ylabel: str) -> list[Axes]:
    """A panel for each name, on common axes that are labeled once."""
    rows, columns = panel_grid(len(names))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, axes in enumerate(grid):
        if i >= len(names):
            axes.remove()
            continue
        axes.set_title(label(names[i]))
        if i + columns >= len(names):
            axes.set_xlabel(xlabel)
            axes.tick_params(labelbottom=True)
    figure.supylabel(ylabel, fontsize=9)
    return list(grid[: len(names)])


def label(text: str) -> str:
    """A name as pictures show it. matplotlib leaves labels that start with an underscore out of legends."""
    shown = drawable(text, LONGEST_LABEL)
    return f" {shown}" if shown.startswith("_") else shown


def log_ticks(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers, for what is drawn already."""
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis, *axes.get_ylim())
