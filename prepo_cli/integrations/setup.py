"""What another trainer's user gives, as a `StrategySet`."""

from __future__ import annotations

from collections.abc import Mapping

from prepo_cli.config import read_recipe
from prepo_cli.errors import UsageError
from strategies import StrategySet
from strategies.strategy_set import resolve_slots
from strategies.types import RunInfo

Given = Mapping[str, str] | str | StrategySet
"""A recipe by name or file, strategies by slot (and a recipe under `recipe`, which they change), or a set of them."""
CONSTANT = "constant"


def strategy_set(given: Given, run: RunInfo, temperature: float = 1.0) -> StrategySet:
    """The five strategies of a run; `temperature` is the trainer's own, which holds where no schedule is given.

    >>> run = RunInfo(num_prompts=100, total_steps=10, prompts_per_step=4, num_generations=4)
    >>> strategy_set("dapo", run).filter.name
    'nonzero-variance'
    >>> strategy_set({"recipe": "dapo", "filter": "keep-all"}, run).filter.name
    'keep-all'

    Raises:
        UsageError: no such recipe, it sets more than strategies, or the set was made for other data.
        StrategyError: no such slot or strategy, or parameters that make no sense for this run.
    """
    if isinstance(given, StrategySet):
        if given.run.num_prompts != run.num_prompts:
            raise UsageError(
                f"strategies= was made for {given.run.num_prompts:,} prompts, but the training set has "
                f"{run.num_prompts:,}; make it with RunInfo(num_prompts={run.num_prompts}, ...), or give slots by name"
            )
        return given
    slots = {"recipe": given} if isinstance(given, str) else {slot: str(text) for slot, text in given.items()}
    recipe = slots.pop("recipe", None)
    layers = [slots] if recipe is None else [_slots_of(recipe), slots]
    specs = resolve_slots(*layers)
    if specs["temperature_schedule"] == CONSTANT:
        specs["temperature_schedule"] = f"{CONSTANT}:value={temperature}"
    return StrategySet(specs, run)


def _slots_of(recipe: str) -> dict[str, str]:
    content = read_recipe(recipe)
    others = [name for name in content if name != "strategies"]
    if others:
        raise UsageError(
            f"recipe '{recipe}' also sets {', '.join(others)}, which belongs to your trainer's own configuration; "
            "set it there, and give the recipe's slots by name"
        )
    return dict(content["strategies"])
