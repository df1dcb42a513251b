"""Figures of runs, drawn with matplotlib in Okabe and Ito's color-blind-safe palette."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.errors import UsageError
from prepo_cli.files import atomic_path
from prepo_cli.text import plain

SOFTWARE = "prepo"
"""Written into pictures, by which those that may be replaced are known."""
BLUE, ORANGE, GREEN, RED, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
LONGEST_TITLE = 90
Line = dict[str, Any]


def learning_curve(metrics: Sequence[Line], evaluations: Sequence[Line], path: Path) -> None:
    """Training reward and held-out avg@k over steps; below them the share of zero-variance groups and the entropy."""
    if not metrics:
        return
    from matplotlib.ticker import MaxNLocator

    steps = np.array([line["step"] for line in metrics])
    rewards = np.array([line["reward"] for line in metrics])
    dot = "o" if len(steps) == 1 else None
    with canvas(path, rows=2, height=6.0) as (upper, lower):
        upper.plot(steps, rewards, color=SKY, linewidth=0.8, alpha=0.6)
        upper.plot(steps, smoothed(rewards), color=BLUE, marker=dot, label="training reward (smoothed)")
        held_out(upper, evaluations, "step", ORANGE, "held-out")
        upper.set_ylabel("mean reward / accuracy")
        upper.set_ylim(0, 1 if rewards.max() <= 1 and rewards.min() >= 0 else None)
        upper.legend(loc="lower right", frameon=False)
        lower.plot(steps, [line["frac_reward_zero_std"] for line in metrics], color=RED, marker=dot)
        lower.set_ylabel("share of zero-variance groups", color=RED)
        lower.set_ylim(0, 1)
        lower.set_xlabel("step")
        lower.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        entropy = lower.twinx()
        entropy.plot(steps, [line["entropy"] for line in metrics], color=GREEN, marker=dot)
        entropy.set_ylabel("token entropy (nats)", color=GREEN)
        entropy.set_ylim(bottom=0)


def perplexity_histogram(ppl: np.ndarray[Any, np.dtype[np.float64]], path: Path, title: str) -> None:
    """Histogram of prompt perplexities on a logarithmic axis, with deciles."""
    known = ppl[np.isfinite(ppl)]
    if not len(known):
        return
    with canvas(path) as axes:
        low, high = known.min(), max(known.max(), known.min() * 1.01)
        axes.hist(known, bins=np.geomspace(low, high, 60), color=SKY)
        for number, decile in enumerate(np.quantile(known, np.arange(1, 10) / 10), 1):
            median = number == 5
            label = "median" if median else "deciles" if number == 1 else None
            axes.axvline(decile, color=RED if median else BLUE, linewidth=1.6 if median else 0.7, label=label)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, low, high)
        axes.set_xlabel("prompt perplexity")
        axes.set_ylabel("prompts")
        set_title(axes, title)
        axes.legend(frameon=False)


def set_title(axes: Any, title: str) -> None:
    """Name a panel, dollar signs and all: they are not mathematics."""
    axes.set_title(drawable(title, LONGEST_TITLE), loc="left", fontsize=10, parse_math=False)


def drawable(text: str, limit: int) -> str:
    """Text as pictures show it: on one line, cut if long, without characters that the font lacks."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    shown = plain(" ".join(text.split()))
    shown = shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
    return "".join(c if font.get_char_index(ord(c)) else "\N{REPLACEMENT CHARACTER}" for c in shown)


def plain_log_ticks(axis: Any, low: float, high: float) -> None:
    """Label a logarithmic axis from `low` to `high` with plain numbers: 500 rather than 5 x 10^2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    subs = (1, 1.5, 2, 3, 5, 7) if high / low <= 10 else (1, 2, 5) if high / low <= 1000 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))


def held_out(axes: Any, evaluations: Sequence[Line], x: str, color: str, label: str) -> None:
    """Plot avg@k with its interval at each evaluation against the field `x`."""
    if not evaluations:
        return
    name = next(key for key in evaluations[0] if key.startswith("avg@"))
    points = [line[name] for line in evaluations]
    values = np.array([point["value"] for point in points])
    errors = np.array([[p["value"] - p["low"], p["high"] - p["value"]] for p in points]).T
    axes.errorbar(
        [line[x] for line in evaluations], values, yerr=errors, color=color, marker="o", capsize=3,
        label=f"{label} {name}, 95% interval",
    )  # fmt: skip


def smoothed(values: np.ndarray[Any, np.dtype[np.float64]], share: float = 0.1) -> np.ndarray[Any, Any]:
    """Centered moving average over about `share` of the points, with shorter windows at the ends.

    >>> smoothed(np.array([0.0, 3.0, 6.0, 9.0]))
    array([1.5, 3. , 6. , 7.5])
    """
    half = max(1, round(len(values) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


@contextmanager
def canvas(path: Path, rows: int = 1, height: float = 4.0, sharex: bool = True) -> Iterator[Any]:
    """Yield the axes of a new figure and save it as PNG on exit; a notebook's own way of drawing stays as it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=sharex)
    for panel in np.atleast_1d(axes):
        panel.grid(alpha=0.25)
        panel.spines[["top"]].set_visible(False)
    yield axes
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": SOFTWARE})


def refuse_plot(path: Path, overwrite: bool) -> None:
    """Refuse, before the work, a picture that can't be written or would replace a file.

    Raises:
        UsageError: why, and how to fix it.
    """
    if path.suffix != ".png":
        raise UsageError(f"--plot {path}: the file name must end in .png")
    if path.is_symlink() or path.exists():
        if not _is_ours(path):
            raise UsageError(f"--plot {path} already exists and was not drawn by prepo; choose another file")
        if not overwrite:
            raise UsageError(f"--plot {path} already exists: replace it with --overwrite, or choose another file")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: no such folder: {path.parent}; create it first")


def _is_ours(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == SOFTWARE
    except OSError:  # also what is no picture
        return False
