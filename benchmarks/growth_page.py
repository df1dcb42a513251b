"""What the docs show of benchmarks/growth.py: a figure, and a table of the exponents with which a step grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth import AXES, STARTS, Points, Work, slope
from prepo_cli.comparison.style import BLACK, BLUE, GREY, ORANGE, VERMILION, picture
from prepo_cli.reporting.figures import plain_log_ticks

NAMES = {
    "rollouts": "rollouts per step",
    "tokens": "tokens per completion",
    "vocabulary": "vocabulary",
    "processes": "processes, one thread each",
}
LINES: dict[str, dict[str, Any]] = {
    "seconds": {"label": "step", "color": BLACK, "marker": "o"},
    "generate": {"label": "generation", "color": BLUE, "marker": "s"},
    "update": {"label": "update", "color": ORANGE, "marker": "D"},
}
MEMORY: dict[str, Any] = {"label": "memory (right)", "color": VERMILION, "linestyle": (0.0, (4, 2)), "marker": "^"}
LINEAR: dict[str, Any] = {"color": GREY, "linestyle": (0.0, (1, 1.5)), "zorder": 1}
MARGIN, LOWER = 1.3, 2.0
"""Between what is drawn and the edges of a panel, and between the ends of time and memory; as factors."""


def markdown(points: Points, measured: str) -> str:
    """The exponents as a table, and the seconds and megabytes of the largest step of each axis."""
    lines = [
        "| axis | from | to | generation | update | step | memory | largest step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for axis, of in points.items():
        x = AXES[axis]
        exponents = " | ".join(f"{slope(x, of[key]):.2f}" for key in ("generate", "update", "seconds", "bytes"))
        largest = f"{of['seconds'][-1]:,.2f} s, {of['bytes'][-1] / 1e6:,.0f} MB"
        lines.append(f"| {NAMES[axis]} | {x[0]:,} | {x[-1]:,} | {exponents} | {largest} |")
    note = "Exponents, fitted over the upper half of each axis; 1 is linear, and -1 for processes."
    return "\n".join([*lines, "", note, f"Measured {measured}."])


def draw(points: Points, path: Path) -> None:
    """A panel for each axis, with a dotted line for what is linear; saved as PNG and SVG."""
    with picture(path, "Time and memory of a training step", 10.0, 7.5) as figure:
        for axes, (axis, of) in zip(figure.subplots(2, 2).ravel(), points.items(), strict=True):
            memory = axes.twinx()
            _panel(axes, memory, AXES[axis], of, -1 if axis == "processes" else 1)
            axes.set_xlabel(NAMES[axis])
            axes.set_title(_rest(axis))
            axes.set_ylabel("seconds")
            memory.set_ylabel("MB", color=VERMILION)
            if axis == next(iter(points)):
                axes.legend(handles=[*axes.lines, *memory.lines], loc="lower right")


def _panel(axes: Any, memory: Any, x: Sequence[int], of: dict[str, list[float]], exponent: int) -> None:
    for key, look in LINES.items():
        axes.plot(x, of[key], **look)
    end = 0 if exponent < 0 else -1
    axes.plot(x, [of["seconds"][end] * (at / x[end]) ** exponent for at in x], label="linear", **LINEAR)
    megabytes = [value / 1e6 for value in of["bytes"]]
    memory.plot(x, megabytes, **MEMORY)
    memory.spines["right"].set_visible(True)
    memory.grid(False)
    seconds = [value for line in axes.lines for value in line.get_ydata()]
    # Both sides span the same ratio, so that a slope means the same on either; memory lies lower.
    span = LOWER * MARGIN**2 * max(max(seconds) / min(seconds), max(megabytes) / min(megabytes))
    for panel, values, lower in ((axes, seconds, 1), (memory, megabytes, LOWER)):
        top = max(values) * MARGIN * lower
        panel.set_yscale("log")
        panel.set_ylim(top / span, top)
        plain_log_ticks(panel.yaxis, top / span, top)
    axes.set_xscale("log")
    axes.set_xticks(shown := x[:: 2 if len(x) > 2 else 1], [f"{at:,}" for at in shown])
    axes.minorticks_off()


def _rest(axis: str) -> str:
    """What the axis is measured at.

    >>> _rest("rollouts")
    '16 tokens per completion, vocabulary 1,024'
    """
    work = STARTS.get(axis, Work())
    parts = {
        "rollouts": f"{work.rollouts:,} rollouts",
        "tokens": f"{work.tokens} tokens per completion",
        "vocabulary": f"vocabulary {work.vocabulary:,}",
    }
    return ", ".join(text for name, text in parts.items() if name != axis)
