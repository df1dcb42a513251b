"""The figure of `prepo score-passrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.reporting.figures import BLUE, RED, canvas, set_title


def pass_rate_figure(report: dict[str, Any], path: Path, title: str) -> None:
    """Distribution of pass rates, and below it the mean pass rate by perplexity decile where there are perplexities."""
    parts = report["by_perplexity"]
    rows = 2 if parts else 1
    with canvas(path, rows=rows, height=3.6 * rows, sharex=False) as axes:
        upper, *lower = np.atleast_1d(axes)
        _distribution(upper, report)
        set_title(upper, title)
        for panel in lower:
            _by_perplexity(panel, parts)


def _distribution(axes: Any, report: dict[str, Any]) -> None:
    """Prompts by number of correct samples; those always or never solved are hatched."""
    counts, k = np.array(report["counts"]), report["k"]
    right, dead = np.arange(k + 1), np.isin(np.arange(k + 1), (0, k))
    axes.bar(right[~dead], counts[~dead], color=BLUE, label=f"varying, {report['varying']['value']:.0%}")
    axes.bar(
        right[dead], counts[dead], color=RED, hatch="///", edgecolor="white",
        label=f"always or never solved, {report['dead']['value']:.0%}",
    )  # fmt: skip
    axes.set_axisbelow(True)
    axes.set_xlabel(f"correct samples of {k}")
    axes.set_ylabel("prompts")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)


def _by_perplexity(axes: Any, parts: list[dict[str, Any]]) -> None:
    rates = [part["pass_rate"] for part in parts]
    values = np.array([rate["value"] for rate in rates])
    errors = np.array([[rate["value"] - rate["low"], rate["high"] - rate["value"]] for rate in rates]).T
    axes.errorbar(range(len(parts)), values, yerr=errors, color=BLUE, marker="o", capsize=3, label="95% interval")
    labels = [f"{part['ppl_low']:.3g} to\n{part['ppl_high']:.3g}" for part in parts]
    axes.set_xticks(range(len(parts)), labels, fontsize=8)
    axes.set_xlabel("prompt perplexity (deciles)")
    axes.set_ylabel("mean pass rate")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
