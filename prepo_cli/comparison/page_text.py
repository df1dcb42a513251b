"""The page's tables, lists and controls as HTML. Whatever a run brings, names and settings alike, is escaped here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import NamedTuple

from prepo_cli.comparison.page_data import differing_settings
from prepo_cli.comparison.result import AXES, COSTS, Comparison, CostRatio, Recipe, Run
from prepo_cli.comparison.style import COLORS, DASHES, MARKERS
from prepo_cli.statistics import Interval, interval_text

NEVER = 1e9
"""Sorts what never reached its target behind all that did."""


class Cell(NamedTuple):
    """A cell's markup and what it is sorted by; None comes last in either direction."""

    html: str
    key: float | str | None = None


EMPTY = Cell('<span class="none">\N{EN DASH}</span>')


def styles(comparison: Comparison) -> list[str]:
    """Each recipe's color, dash and marker as classes, in the order of the other pictures; 0 is the baseline's."""
    look = {comparison.baseline: "c0 d0 m0"}
    others = [recipe.name for recipe in comparison.recipes if recipe.name != comparison.baseline]
    for i, name in enumerate(others):
        look[name] = f"c{1 + i % len(COLORS)} d{1 + i % len(DASHES)} m{(1 + i) % len(MARKERS)}"
    return [look[recipe.name] for recipe in comparison.recipes]


def verdict(comparison: Comparison) -> str:
    """What can be claimed, in words, and below it what the reader must know."""
    first, *others = comparison.verdict or ("No verdict: there are no accuracies to compare.",)
    parts = [f'<p class="lead">{escape(first)}</p>', _list("claims", others)]
    if comparison.notes:
        parts += ['<h2 class="quiet">Notes</h2>', _list("notes", comparison.notes)]
    return "".join(parts)


def recipe_table(comparison: Comparison) -> str:
    """The recipes, one a row."""
    head = ["Recipe", "Seeds", "Final accuracy", "Difference", "Holm p", "P(better)", "Cost ratio", "Area"]
    rows = [
        _recipe_row(recipe, style, recipe.name == comparison.baseline)
        for recipe, style in zip(comparison.recipes, styles(comparison), strict=True)
    ]
    marked = [i for i, recipe in enumerate(comparison.recipes) if recipe.name == comparison.baseline]
    return _table("recipes", [*head, *_cost_headings()], rows, marked)


def run_table(comparison: Comparison) -> str:
    """The single runs, one a row."""
    recipe_of = {name: i for i, recipe in enumerate(comparison.recipes) for name in recipe.runs}
    look = styles(comparison)
    rows = [_run_row(run, look[recipe_of[run.name]]) for run in comparison.runs]
    return _table("runs", ["Run", "Recipe", "Seed", "Steps", "Final accuracy", *_cost_headings()], rows)


def difference_table(comparison: Comparison) -> str:
    """The settings in which the recipes differ, one a row."""
    settings = differing_settings(comparison)
    if not settings:
        return "<p>The configurations are identical.</p>"
    head = "".join(f'<th scope="col">{_name(r.name, s)}</th>' for r, s in _styled(comparison))
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th>'
        + "".join(f"<td>{escape(value) or EMPTY.html}</td>" for value in values)
        + "</tr>"
        for key, values in settings.items()
    )
    return _scrolling(
        "settings", f'<thead><tr><th scope="col">Setting</th>{head}</tr></thead><tbody>{body}</tbody>', "Settings"
    )


def chips(comparison: Comparison) -> str:
    """A checkbox for every recipe; they are the legend, too."""
    return "".join(
        f'<label class="chip"><input type="checkbox" checked value="{i}">{_name(recipe.name, style)}</label>'
        for i, (recipe, style) in enumerate(_styled(comparison))
    )


def axis_switch(group: str) -> str:
    """Radio buttons for the cost that is drawn."""
    return "".join(
        f'<label><input type="radio" name="{group}" value="{axis}"{" checked" if axis == "rollouts" else ""}>'
        f"<span>{axis}</span></label>"
        for axis in AXES
    )


def options(names: Sequence[str]) -> str:
    """The entries of a menu."""
    return "".join(f"<option>{escape(name)}</option>" for name in names)


def _recipe_row(recipe: Recipe, style: str, baseline: bool) -> list[Cell]:
    badge = ' <span class="badge">baseline</span>' if baseline else ""
    return [
        Cell(_name(recipe.name, style) + badge, recipe.name),
        _number(len(recipe.seeds) or None, str(len(recipe.seeds))),
        _interval(recipe.final),
        Cell("not compared") if recipe.not_compared else _interval(recipe.difference, "+.3f"),
        _number(recipe.p_holm, _p_value(recipe.p_holm)),
        _number(recipe.better, "" if recipe.better is None else f"{recipe.better:.2f}"),
        Cell("1", 1.0) if baseline else ratio_cell(recipe.cost_ratios.get("rollouts")),
        _interval(recipe.area),
        *_cost_cells(recipe.costs),
    ]


def _run_row(run: Run, style: str) -> list[Cell]:
    final = float(run.evaluated_E[-1]) if run.evaluated_E is not None and len(run.evaluated_E) else None
    return [
        Cell(escape(run.name), run.name),
        Cell(_name(run.recipe, style), run.recipe),
        _number(run.seed, str(run.seed)),
        Cell(f"{run.steps:,}", run.steps),
        _number(final, "" if final is None else f"{final:.3f}"),
        *_cost_cells(run.costs),
    ]


def ratio_cell(ratio: CostRatio | None) -> Cell:
    """A cost ratio with its interval; one that was never reached shows its bound.

    >>> ratio_cell(CostRatio(None, 1.8, None, 0.1)).html
    '&gt; 1.80<small>never reached</small>'
    """
    if ratio is None:
        return EMPTY
    if ratio.value is None:
        return Cell(f"&gt; {ratio.low:.2f}<small>never reached</small>", NEVER + ratio.low)
    value, interval = ratio.text.split(" ", 1)
    return Cell(f"{value} <small>{interval}</small>", ratio.value)


def _interval(interval: Interval | None, form: str = ".3f") -> Cell:
    if interval is None:
        return EMPTY
    value, ends = interval_text(interval._asdict(), form).split(" ", 1)
    return Cell(f"{value} <small>{ends}</small>", interval.value)


def _number(key: float | None, text: str) -> Cell:
    return EMPTY if key is None else Cell(escape(text), key)


def _p_value(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cost_headings() -> list[str]:
    return [heading.capitalize() for heading in COSTS.values()]


def _cost_cells(costs: Mapping[str, float]) -> list[Cell]:
    return [_number(costs.get(name), _amount(costs.get(name, 0.0))) for name in COSTS]


def _amount(number: float) -> str:
    """A cost in full up to a million.

    >>> _amount(40_000.0), _amount(9_600_000.0)
    ('40,000', '9.60M')
    """
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.2f}M"


def _styled(comparison: Comparison) -> list[tuple[Recipe, str]]:
    return list(zip(comparison.recipes, styles(comparison), strict=True))


def _name(name: str, style: str) -> str:
    swatch = f'<svg class="swatch {style}" viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24"/></svg>'
    return f'{swatch}<bdi class="name">{escape(name)}</bdi>'


def _table(kind: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Collection[int] = ()) -> str:
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{h}</button></th>' for h in headings)
    body = "".join(
        ('<tr class="baseline">' if i in marked else "<tr>") + "".join(map(_cell, row)) + "</tr>"
        for i, row in enumerate(rows)
    )
    return _scrolling(kind, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", kind.capitalize())


def _cell(cell: Cell) -> str:
    key = "" if cell.key is None else f' data-key="{escape(str(cell.key))}"'
    return f"<td{key}>{cell.html}</td>"


def _scrolling(kind: str, inner: str, label: str) -> str:
    """A table in a box that scrolls sideways, also by keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table id="{kind}">{inner}</table></div>'
    )


def _list(kind: str, items: Sequence[str]) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>" if items else ""
