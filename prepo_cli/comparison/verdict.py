"""The verdict in words: what can be claimed of each recipe against the baseline, and what can't."""

from __future__ import annotations

from prepo_cli.comparison.result import AXES, Comparison, Recipe
from prepo_cli.statistics import interval_text

LEVEL = 0.05
SPENT = {"rollouts": "rollouts", "tokens": "tokens", "seconds": "training time"}


def verdict(comparison: Comparison) -> tuple[str, ...]:
    """Sentences in the order of the recipes, differences claimed by Holm's corrected p-values at 0.05."""
    return tuple(_sentences(comparison)) or ("Nothing could be compared; see the notes.",)


def _sentences(comparison: Comparison) -> list[str]:
    base = next(recipe for recipe in comparison.recipes if recipe.name == comparison.baseline)
    others = [recipe for recipe in comparison.recipes if recipe is not base]
    if not others:
        return [f"There is only one recipe, {base.name}, so nothing to compare it with."]
    sentences = [_evaluated(recipe, comparison) for recipe in others if recipe.over_prompts]
    trained = [recipe for recipe in others if not recipe.over_prompts and not recipe.not_compared]
    single = [recipe.name for recipe in trained if len(recipe.runs) == 1]
    if trained and (len(base.runs) == 1 or len(single) == len(trained)):
        sentences.append(
            "One seed supports no claim: another seed may reverse the order. Train every recipe "
            "with several, such as --seeds 0..4."
        )
        return sentences
    sentences += [_trained(recipe, base, comparison) for recipe in trained if recipe.difference is not None]
    if single:
        sentences.append(f"{', '.join(single)}: one seed supports no claim.")
    return sentences


def _trained(recipe: Recipe, base: Recipe, comparison: Comparison) -> str:
    assert recipe.difference is not None
    count = len(set(recipe.seeds) & set(base.seeds))
    seeds = f"{count} seeds" if count > 1 else f"{len(recipe.runs)} and {len(base.runs)} seeds"
    difference = interval_text(recipe.difference._asdict(), "+.3f")
    cost = _cost(recipe, comparison)
    if recipe.p_holm is not None and recipe.p_holm < LEVEL:
        ends = f"ends {'higher' if recipe.difference.value > 0 else 'lower'} than {base.name}: {difference}"
        return f"{recipe.name} {cost} and {ends} ({seeds})." if cost else f"{recipe.name} {ends} ({seeds})."
    if cost:
        return f"{recipe.name} {cost} ({seeds}); no significant difference in final accuracy, {difference}."
    return f"{recipe.name}: no significant difference, {difference}{_power(recipe, count)}."


def _cost(recipe: Recipe, comparison: Comparison) -> str:
    """What reaching the target costs, where its interval lies on one side of the baseline's; else empty."""
    axis = next((axis for axis in AXES if axis in recipe.cost_ratios), None)
    if axis is None or comparison.target is None:
        return ""
    ratio = recipe.cost_ratios[axis]
    goal = f"{comparison.baseline}'s final accuracy" if comparison.target_is_final else "the target accuracy"
    goal = f"{goal} ({comparison.target:.3f})"
    whose = "its" if comparison.target_is_final else f"{comparison.baseline}'s"
    if ratio.value is not None and (ratio.low > 1 or (ratio.high is not None and ratio.high < 1)):
        times = "of" if ratio.value < 1 else "times"
        return f"reaches {goal} with {ratio.text} {times} {whose} {SPENT[axis]}"
    if ratio.value is None and ratio.low > 1:
        return f"does not reach {goal}; that takes more than {ratio.low:.2f} times {whose} {SPENT[axis]}"
    return ""


def _power(recipe: Recipe, count: int) -> str:
    if recipe.seeds_needed is None:
        return ""
    if recipe.seeds_needed <= count:
        return f"; {count} seeds would most likely have detected a difference of 0.01"
    return f"; detecting a difference of 0.01 takes about {recipe.seeds_needed} seeds"


def _evaluated(recipe: Recipe, comparison: Comparison) -> str:
    assert recipe.difference is not None
    difference = interval_text(recipe.difference._asdict(), "+.3f")
    prompts = f"({comparison.prompts:,} prompts)"
    if recipe.p_holm is not None and recipe.p_holm < LEVEL:
        scores = f"scores {'higher' if recipe.difference.value > 0 else 'lower'} than"
        return f"{recipe.name} {scores} {comparison.baseline}: {difference} {prompts}."
    return f"{recipe.name}: no significant difference from {comparison.baseline}, {difference} {prompts}."
