"""The comparison as one HTML file that needs no network: verdict, tables, charts, settings and single rollouts.

The content security policy lets no request out and no program run but the page's own script and Plotly, each known by
its digest. Plotly travels gzipped, since 4.8 MB of it would fill the page; the browser unpacks it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from prepo_cli.comparison import page_text
from prepo_cli.comparison.page_data import chart_data, embedded
from prepo_cli.comparison.result import AXES, Comparison
from prepo_cli.comparison.rollouts import sample_rollouts
from prepo_cli.files import atomic_write

SCRIPTS = ("tables.js", "charts.js", "rollouts.js", "page.js")
PLOTLY_STYLE = "/* Plotly adds its rules here: the policy forbids it a style element of its own. */"


def write_page(path: Path, comparison: Comparison) -> None:
    """Write the page.

    Raises:
        UsageError: a run's rollouts can't be read.
    """
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    style, script = _asset("page.css"), "".join(map(_asset, SCRIPTS))
    rollouts = sample_rollouts(comparison.recipes, comparison.runs)
    charts = chart_data(comparison)
    page = Template(_asset("page.html")).substitute(
        policy=_policy(scripts=[script, plotly], styles=[style, PLOTLY_STYLE]),
        style=style,
        plotly_style=PLOTLY_STYLE,
        plotly_marks=_marks(plotly),
        **_words(comparison),
        metric_options=page_text.options(charts["metrics"]),
        no_charts=_hidden(bool(charts["metrics"]) or any(recipe["curves"] for recipe in charts["recipes"])),
        no_curves=_hidden(any(recipe["curves"] for recipe in charts["recipes"])),
        no_ratios=_hidden(any(recipe["ratios"] for recipe in charts["recipes"])),
        no_metrics=_hidden(bool(charts["metrics"])),
        no_rollouts=_hidden(bool(rollouts)),
        data=embedded({**charts, "axes": AXES, "rollouts": rollouts, "baseline": comparison.baseline}),
        plotly=base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode(),
        script=script,
    )
    # A folder's name may hold bytes that are no text.
    atomic_write(path, page.encode("utf-8", "replace").decode())


def _words(comparison: Comparison) -> dict[str, str]:
    facts = [_count(len(comparison.runs), "run"), f"baseline {comparison.baseline}"]
    if comparison.metric is not None:
        facts.insert(1, f"{comparison.metric} on {_count(comparison.prompts, 'prompt')}")
    if comparison.target is not None:
        facts.append(f"target {comparison.target:.3f}")
    own = comparison.target_is_final or comparison.target is None
    return {
        "goal": "the baseline\N{RIGHT SINGLE QUOTATION MARK}s final accuracy" if own else f"{comparison.target:.3f}",
        "title": f"Comparison of {_count(len(comparison.recipes), 'recipe')}",
        "facts": escape(" · ".join(facts)),
        "verdict": page_text.verdict(comparison),
        "recipe_table": page_text.recipe_table(comparison),
        "run_table": page_text.run_table(comparison),
        "chips": page_text.chips(comparison),
        "curve_axes": page_text.axis_switch("curve-axis"),
        "ratio_axes": page_text.axis_switch("ratio-axis"),
        "difference_table": page_text.difference_table(comparison),
    }


def _policy(scripts: list[str], styles: list[str]) -> str:
    """Nothing but these scripts and styles; images only where the page itself holds them."""
    return f"default-src 'none'; script-src {_digests(scripts)}; style-src {_digests(styles)}; img-src data:"


def _digests(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _marks(plotly: str) -> str:
    """Empty elements that keep Plotly's map code, not used here, from adding styles: it looks for their ids first."""
    return "".join(f'<i id="{mark}" hidden></i>' for mark in re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly))


def _hidden(has_content: bool) -> str:
    return "" if has_content else "hidden"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _asset(name: str) -> str:
    return (files("prepo_cli") / "assets" / "page" / name).read_text(encoding="utf-8")
