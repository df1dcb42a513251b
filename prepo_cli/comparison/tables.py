"""The comparison in the terminal: the verdict, a table of recipes, and the notes."""

from __future__ import annotations

from prepo_cli.comparison.result import COSTS, Comparison, Recipe
from prepo_cli.statistics import Interval, interval_text
from prepo_cli.terminal import line, table

HEADINGS = ("recipe", "seeds", "final", "difference", "p (Holm)", "P(better)", "cost ratio")


def show(comparison: Comparison) -> None:
    """Print what was found, what it cost on average, and the verdict."""
    rows = [_row(recipe, recipe.name == comparison.baseline) for recipe in comparison.recipes]
    used = [i for i in range(len(HEADINGS)) if any(row[i] for row in rows)]
    table(_title(comparison), [HEADINGS[i] for i in used], [[row[i] for i in used] for row in rows])
    costs = [[recipe.name, *_costs(recipe)] for recipe in comparison.recipes if recipe.costs]
    if costs:
        table("mean cost of a run; tokens are generated or scored", ["recipe", *COSTS.values()], costs)
    for sentence in (*comparison.verdict, *comparison.notes):
        line(f"- {sentence}")


def _title(comparison: Comparison) -> str:
    if comparison.metric is None:
        return "no evaluations to compare"
    ratios = any(recipe.cost_ratios for recipe in comparison.recipes)
    target = f"; cost ratio: rollouts to reach {comparison.target:.3f}" if ratios else ""
    return f"{comparison.metric} on {comparison.prompts:,} prompts, compared with {comparison.baseline}{target}"


def _row(recipe: Recipe, is_baseline: bool) -> list[str]:
    ratio = recipe.cost_ratios.get("rollouts")
    return [
        recipe.name,
        str(len(recipe.seeds) or len(recipe.runs)),
        _interval(recipe.final, ".3f"),
        "baseline" if is_baseline else _difference(recipe),
        "" if recipe.p_holm is None else f"{recipe.p_holm:.3f}",
        "" if recipe.better is None else f"{recipe.better:.2f}",
        "" if ratio is None else ratio.text,
    ]


def _difference(recipe: Recipe) -> str:
    return "not compared" if recipe.not_compared else _interval(recipe.difference, "+.3f")


def _costs(recipe: Recipe) -> list[str]:
    return [f"{recipe.costs[name]:,.0f}" if name in recipe.costs else "" for name in COSTS]


def _interval(interval: Interval | None, form: str) -> str:
    return "" if interval is None else interval_text(interval._asdict(), form)
