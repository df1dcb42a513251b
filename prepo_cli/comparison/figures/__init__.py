"""The pictures of a comparison, one idea a file: each draws what the runs hold, and nothing where they hold nothing."""

from __future__ import annotations

from pathlib import Path

from prepo_cli.comparison.figures import (
    accuracy,
    budgets,
    cost_ratios,
    costs,
    perplexity,
    shares,
    temperature,
    weights,
)
from prepo_cli.comparison.figures.scene import Scene
from prepo_cli.comparison.result import Comparison

PICTURES = (
    accuracy.draw,
    cost_ratios.draw,
    shares.draw,
    perplexity.draw_deciles,
    perplexity.draw_selected,
    budgets.draw,
    weights.draw,
    temperature.draw,
    costs.draw,
)


def draw(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Draw every picture that there is data for; caption -> PNG, with an SVG beside each.

    Raises:
        UsageError: a run's recorded rollouts are damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(comparison, folder)
    return {caption: path for picture in PICTURES for caption, path in picture(scene).items()}
