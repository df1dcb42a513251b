"""Prompt perplexity: what it says about the pass rate, and which of it selectors pick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prepo_cli.comparison.figures.scene import PROGRESS, Scene, band
from prepo_cli.comparison.groups import Groups, by_bin
from prepo_cli.comparison.style import GREY, log_ticks, panel_size, panels, picture
from prepo_cli.statistics import FloatArray

DECILES = 10
FEWEST_GROUPS = 100
"""Fewer groups of known perplexity are not worth ten means."""


def draw_deciles(scene: Scene) -> dict[str, Path]:
    """Pass rate of the groups in each decile of perplexity, by recipe."""
    from matplotlib.ticker import PercentFormatter

    rates = pass_rates_by_decile(scene.groups)
    bands = {}
    for recipe in scene.comparison.recipes:
        known = [rates[run] for run in recipe.runs if run in rates]
        if known:
            bands[recipe.name] = band(np.arange(1.0, DECILES + 1), np.stack(known))
    if not bands:
        return {}
    title, path = "Pass rate by prompt perplexity", scene.folder / "perplexity_pass_rate.png"
    with picture(path, title, 8.0, 3.8) as figure:
        axes = figure.subplots()
        for name, values in bands.items():
            scene.draw_band(axes, name, values, shaded=len(bands) <= 3)
        axes.set_xlabel("decile of prompt perplexity (1: lowest)")
        axes.set_ylabel("pass rate of the groups")
        axes.set_xticks(range(1, DECILES + 1))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        scene.legend(figure, list(bands))
    return {title: path}


def pass_rates_by_decile(groups: Mapping[str, Groups]) -> dict[str, FloatArray]:
    """Mean pass rate [D] in each decile of perplexity by run; the deciles are those of all runs together."""
    known = {name: np.isfinite(run.ppl_G) for name, run in groups.items()}
    pairs = {name: (run.ppl_G[known[name]], run.pass_rate_G[known[name]]) for name, run in groups.items()}
    ppl_G = np.concatenate([np.zeros(0), *(ppl for ppl, _ in pairs.values())])
    if len(ppl_G) < FEWEST_GROUPS or ppl_G.min() == ppl_G.max():
        return {}
    edges = np.quantile(ppl_G, np.arange(1, DECILES) / DECILES)
    return {
        name: by_bin(np.searchsorted(edges, ppl), rates, DECILES) for name, (ppl, rates) in pairs.items() if len(ppl)
    }


def draw_selected(scene: Scene) -> dict[str, Path]:
    """A panel for each recipe that selects by perplexity: mean and range of the candidates and of the chosen."""
    from matplotlib.ticker import PercentFormatter

    sides = ("candidates", "kept")
    logged = {
        (side, statistic): scene.over_progress(f"selector/ppl_{side}_{statistic}")
        for side in sides
        for statistic in ("mean", "min", "max")
    }
    names = [name for name in logged["candidates", "mean"] if all(name in bands for bands in logged.values())]
    names = [name for name in names if logged["candidates", "mean"][name].is_line]
    if not names:
        return {}
    title, path = (
        "Prompt perplexity: candidates (dashed) and selected",
        scene.folder / "perplexity_selected.png",
    )
    with picture(path, title, *panel_size(len(names))) as figure:
        for axes, name in zip(panels(figure, names, PROGRESS, "prompt perplexity"), names, strict=True):
            for side, color, alpha in (("candidates", GREY, 0.25), ("kept", scene.styles[name].color, 0.35)):
                mean, low, high = (logged[side, statistic][name] for statistic in ("mean", "min", "max"))
                axes.fill_between(mean.x_X, low.mean_X, high.mean_X, color=color, alpha=alpha, linewidth=0)
                axes.plot(mean.x_X, mean.mean_X, color=color, linestyle="--" if side == "candidates" else "-")
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        log_ticks(axes)
    return {title: path}
