"""The study's curve: what recipes cost to reach a goal, as a multiple of random's cost, against the dead share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prepo_cli.comparison.figures.cost_ratios import limits, ratio_ticks
from prepo_cli.comparison.result import CostRatio
from prepo_cli.comparison.style import BLACK, distinct, label, picture

Goal = dict[float, dict[str, CostRatio]]
"""Cost ratios to one goal, by share of dead prompts and recipe."""
SPREAD = 0.012
"""Distance in x between recipes, so that their intervals don't cover each other."""


def everywhere(goal: Goal) -> list[str]:
    """Recipes that several worlds have."""
    counts: dict[str, int] = {}
    for ratios in goal.values():
        for name in ratios:
            counts[name] = counts.get(name, 0) + 1
    return sorted(name for name, count in counts.items() if count > 1)


def draw_curve(goals: Mapping[str, Goal], path: Path) -> None:
    """A panel for each goal; intervals without an upper end have an arrow, those of goals never reached no marker."""
    names = sorted({name for goal in goals.values() for name in everywhere(goal)})
    look = distinct(names)
    low, high = limits([r[name] for goal in goals.values() for r in goal.values() for name in names if name in r])
    with picture(path, "Rollouts needed, as a multiple of random's", 9.0, 4.2) as figure:
        panels = figure.subplots(1, len(goals), sharey=True, squeeze=False)[0]
        for axes, (title, goal) in zip(panels, goals.items(), strict=True):
            axes.set_title(f"to {title}")
            for place, name in enumerate(names):
                points = [(dead, ratios[name]) for dead, ratios in goal.items() if name in ratios]
                x = np.array([dead + SPREAD * (place - (len(names) - 1) / 2) for dead, _ in points])
                y = np.array([np.nan if r.value is None else min(max(r.value, low), high) for _, r in points])
                style = look[name]
                for at, (_, ratio) in zip(x, points, strict=True):
                    top = high if ratio.high is None else min(ratio.high, high)
                    axes.plot([at, at], [max(ratio.low, low), top], color=style.color, linewidth=1.2)
                    if ratio.high is None:
                        axes.plot([at], [high], color=style.color, marker="^", markersize=5, clip_on=False)
                axes.plot(x, y, color=style.color, linestyle=style.linestyle, marker=style.marker, markersize=6,
                          linewidth=1.2, label=label(name))  # fmt: skip
            axes.axhline(1, color=BLACK, linewidth=0.9)
            axes.set_yscale("log", base=2)
            axes.set_ylim(low, high)
            ratio_ticks(axes.yaxis)
            axes.set_xticks(sorted(goal))
            axes.set_xlabel("share of the training prompts that stay dead")
        panels[0].set_ylabel("multiple of random's rollouts (log scale)")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
