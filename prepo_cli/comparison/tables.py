"""The comparison in the terminal: the verdict, a table of recipes, and the notes."""

from __future__ import annotations

from prepo_cli.comparison.result import Comparison, Recipe
from prepo_cli.statistics import Interval, interval_text
from prepo_cli.terminal import line, table

HEADINGS = (
    "recipe", "seeds", "final", "difference", "p (Holm)", "P(better)", "cost ratio", "rollouts", "tokens", "seconds"
)  # fmt: skip


def show(comparison: Comparison) -> None:
    """Print the comparison."""
    rows = [_row(recipe, recipe.name == comparison.baseline) for recipe in comparison.recipes]
    table(_title(comparison), HEADINGS, rows)
    for sentence in (*comparison.verdict, *comparison.notes):
        line(f"- {sentence}")


def _title(comparison: Comparison) -> str:
    if comparison.metric is None:
        return "no evaluations to compare"
    target = "" if comparison.target is None else f"; cost ratio: rollouts to reach {comparison.target:.3f}"
    return f"{comparison.metric} on {comparison.prompts:,} prompts, compared with {comparison.baseline}{target}"


def _row(recipe: Recipe, is_baseline: bool) -> list[str]:
    ratio = recipe.cost_ratios.get("rollouts")
    return [
        recipe.name,
        str(len(recipe.seeds) or len(recipe.runs)),
        _interval(recipe.final, ".3f"),
        "baseline" if is_baseline else _interval(recipe.difference, "+.3f"),
        "" if recipe.p_holm is None else f"{recipe.p_holm:.3f}",
        "" if recipe.better is None else f"{recipe.better:.2f}",
        "" if ratio is None else ratio.text,
        *(f"{recipe.costs[axis]:,.0f}" if axis in recipe.costs else "" for axis in ("rollouts", "tokens", "seconds")),
    ]


def _interval(interval: Interval | None, form: str) -> str:
    return "" if interval is None else interval_text(interval._asdict(), form)
