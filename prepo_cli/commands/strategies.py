"""`prepo strategies`: list the strategies of each slot, built-in and plug-in alike, and the recipes made of them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from prepo_cli.errors import UsageError


def strategies_command(
    name: Annotated[
        str | None, typer.Argument(help="Strategy or recipe to describe; your own strategy as file.py:Class.")
    ] = None,
    slot: Annotated[str | None, typer.Option(help="List only this slot: selector, budget, filter, ...")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the list as one JSON object.")] = False,
) -> None:
    """List the strategies of every slot and the recipes, or describe one in detail.

    \b
    Examples:
      prepo strategies
      prepo strategies --slot selector
      prepo strategies ppl-schedule
      prepo strategies my_selectors.py:InFileOrder
      prepo strategies prepo
      prepo strategies --json
    """
    from prepo_cli.commands.recipe_cards import print_recipe, print_recipes, recipe_card
    from prepo_cli.commands.strategy_cards import card, details
    from prepo_cli.recipes import is_recipe, recipes
    from strategies import registry
    from strategies.base import SLOTS

    if slot is not None:
        slot = slot.replace("-", "_")
        if slot not in SLOTS:
            hint = registry.did_you_mean(slot, SLOTS)
            raise UsageError(f"unknown slot '{slot}'{hint}; known: {', '.join(SLOTS)}")
    found = [cls for cls in registry.listed() if slot in (None, cls.slot)]
    chosen = list(recipes()) if slot is None else []
    if name is not None and ":" in name:
        found, chosen = [registry.import_strategy(name, slot)], []
    elif name is not None:
        names = sorted({*(cls.name for cls in found), *chosen})
        found = [cls for cls in found if cls.name == name]
        chosen = [name] if slot is None and is_recipe(name) else []
        if not found and not chosen:
            kind, hint = slot or "strategy", registry.suggestion(name, names)
            raise UsageError(f"unknown {kind} '{name}'{hint}; known: {', '.join(names)}")
    cards = [card(cls) | (details(cls, name) if name else {}) for cls in found]
    recipe_cards = list(map(recipe_card, chosen))
    if json_output:
        typer.echo(json.dumps({"strategies": cards, "recipes": recipe_cards}, indent=2))
    elif name is None:
        _print_table(cards)
        if recipe_cards:
            print_recipes(recipe_cards)
    else:
        for one in cards:
            _print_details(one)
        for one in recipe_cards:
            print_recipe(one)


def _print_table(cards: list[dict[str, Any]]) -> None:
    from prepo_cli.terminal import results, ruled

    console = results()
    for slot in dict.fromkeys(one["slot"] for one in cards):
        console.print(f"--{slot.replace('_', '-')}", style="bold")
        table = ruled(expand=True)
        table.add_column("name", style="cyan", overflow="fold")
        table.add_column("description", ratio=3, overflow="fold")
        table.add_column("parameters", ratio=3, overflow="fold")
        table.add_column("paper", no_wrap=True)
        for one in (c for c in cards if c["slot"] == slot):
            table.add_row(one["name"], _summary(one), "\n".join(map(_signature, one["parameters"])), one["paper"])
        console.print(table)
        console.print()


def _summary(one: dict[str, Any]) -> str:
    lines = [one["description"]]
    if one["companions"]:
        lines.append(f"also sets {_companions(one)}")
    if one["package"] != "prepo":
        lines.append(f"from package {one['package']}")
    return "\n".join(lines)


def _print_details(one: dict[str, Any]) -> None:
    from prepo_cli.terminal import results, ruled

    console = results()
    console.print(f"{one['slot']} {one['name']}", style="bold")
    console.print("\n\n".join(_reflowed(text) for text in (one["documentation"], one["method"]) if text) + "\n")
    console.print(f"use:        --{one['slot'].replace('_', '-')} '{one['example']}'")
    console.print(f"class:      {one['class']}, package {one['package']}")
    console.print(f"paper:      {one['paper'] or 'none'}")
    console.print(f"also sets:  {_companions(one) or 'nothing'}")
    if not one["parameters"]:
        console.print("parameters: none\n")
        return
    console.print()
    table = ruled("parameter", "type", "default", "bounds", "meaning")
    for p in one["parameters"]:
        table.add_row(p["name"], p["type"], _shown(p["default"]), p["bounds"], p["description"])
    console.print(table)
    console.print()


def _reflowed(text: str) -> str:
    """Paragraphs without the line breaks of the source; lists and formulas keep theirs."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if re.search(r"^(\s|[-*|])", p, re.MULTILINE) else p.replace("\n", " ") for p in paragraphs)


def _signature(parameter: dict[str, Any]) -> str:
    limits = parameter["bounds"] or parameter["type"]
    return f"{parameter['name']}={_shown(parameter['default'])} ({limits})"


def _companions(one: dict[str, Any]) -> str:
    return ", ".join(f"{slot.replace('_', '-')} {name}" for slot, name in one["companions"].items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(round(value, 4) if isinstance(value, float) else value)
