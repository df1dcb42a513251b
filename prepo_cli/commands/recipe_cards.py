"""Recipes as plain data and as text, for `prepo strategies`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prepo_cli.config import read_recipe
from prepo_cli.recipes import ALIASES, recipe_name, recipe_path
from strategies import registry
from strategies.strategy_set import SLOT_DEFAULTS, resolve_slots

PAPER = re.compile(r"\b\d{4}\.\d{5}\b")


def recipe_card(name: str) -> dict[str, Any]:
    """Name, description, paper, slots, other settings and other names of a recipe; raises UsageError if there is none.

    The description is the comment that its file begins with.
    """
    content, description = read_recipe(name), _comment(recipe_path(name).read_text(encoding="utf-8"))
    paper = PAPER.search(description)
    return {
        "name": recipe_name(name),
        "description": description,
        "paper": paper[0] if paper else None,
        "slots": resolve_slots(content.pop("strategies")),
        "settings": content,
        "aliases": [other for other, meant in ALIASES.items() if meant == recipe_name(name)],
        "example": f"prepo train --recipe {name}",
    }


def print_recipes(cards: Sequence[Mapping[str, Any]]) -> None:
    """A table of all recipes."""
    from prepo_cli.terminal import results, ruled

    console = results()
    console.print("--recipe", style="bold")
    table = ruled(expand=True)
    table.add_column("name", no_wrap=True, style="cyan")
    table.add_column("description", ratio=3)
    table.add_column("slots not at default", min_width=21, overflow="fold")
    table.add_column("paper", no_wrap=True)
    for one in cards:
        slots = [f"{_flag(slot)} {text}" for slot, text in one["slots"].items() if text != SLOT_DEFAULTS[slot]]
        others = [f"also called {', '.join(one['aliases'])}"] if one["aliases"] else []
        table.add_row(one["name"], "\n".join([one["description"], *others]), "\n".join(slots) or "none", one["paper"])
    console.print(table)


def print_recipe(one: Mapping[str, Any]) -> None:
    """Everything about one recipe: what each slot holds and does."""
    from prepo_cli.terminal import results, ruled

    console = results()
    console.print(f"recipe {one['name']}", style="bold")
    console.print(f"{one['description']}\n")
    console.print(f"use:        {one['example']}")
    console.print(f"paper:      {one['paper'] or 'none'}")
    if one["aliases"]:
        console.print(f"also:       {', '.join(one['aliases'])}")
    if one["settings"]:
        console.print(f"also sets:  {', '.join(_flat(one['settings']))}")
    console.print()
    table = ruled("slot", "strategy", "description")
    for slot, text in one["slots"].items():
        found = (registry.describe(registry.find(slot, spec.name)) for spec in registry.parse(text))
        plain = " (default)" if text == SLOT_DEFAULTS[slot] else ""
        table.add_row(_flag(slot), f"{text}{plain}", " ".join(found))
    console.print(table)
    console.print()


def _comment(text: str) -> str:
    """The comment that a file begins with, without its marks.

    >>> _comment("# Mine:\\n# without noise.\\nstrategies: {}\\n# more\\n")
    'Mine: without noise.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _flag(slot: str) -> str:
    return slot.replace("_", "-")


def _flat(settings: Mapping[str, Any], place: str = "") -> list[str]:
    found: list[str] = []
    for key, value in settings.items():
        found += _flat(value, f"{place}{key}.") if isinstance(value, Mapping) else [f"{place}{key}={value}"]
    return found
