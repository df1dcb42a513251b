"""The comparison of runs: what every recipe costs and gains against a baseline, with uncertainty.

Recipes are paired by seed where they share two or more, else their seeds are resampled independently. With one seed a
recipe's accuracy has an interval over prompts, and nothing is claimed of it; evaluations are of given models, which are
compared over prompts alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from prepo_cli.comparison.comparable import comparable
from prepo_cli.comparison.recipes import Group, group_runs
from prepo_cli.comparison.result import Comparison, Recipe, Run
from prepo_cli.comparison.sample import common, sample_of
from prepo_cli.comparison.study import Study
from prepo_cli.comparison.verdict import verdict
from prepo_cli.errors import UsageError
from prepo_cli.files import finite
from prepo_cli.seed_statistics import holm
from prepo_cli.statistics import Interval
from strategies.registry import did_you_mean

DEFAULT_BASELINE = "random"


def compare(runs: Sequence[Run], *, baseline: str | None = None, target: float | None = None) -> Comparison:
    """Compare runs by recipe with the baseline's: by default `random`, else the first.

    `target` is the accuracy that costs are counted to, by default the baseline's final one.

    Raises:
        UsageError: there are no runs, or the baseline is not among the recipes.
    """
    if not runs:
        raise UsageError("no runs to compare; pass the folders of finished runs")
    groups, notes = group_runs(runs)
    base = _baseline(groups, baseline)
    evaluated = {group.name: group for group in map(_evaluated, groups) if group.runs}
    skipped = [run.name for group in groups for run in group.runs if run.evaluated_E is None]
    if skipped:
        notes.append(f"Not evaluated after training: {', '.join(skipped)}.")
    recipes = {group.name: _bare(group) for group in groups}
    prompts: tuple[str, ...] = ()
    differing: dict[str, tuple[str, ...]] = {}
    if base.name in evaluated:
        compared, prompts, differing, left_out = comparable(list(evaluated.values()), evaluated[base.name])
        study = Study(evaluated[base.name], compared, prompts, target)
        notes += left_out + study.notes()
        recipes |= {group.name: study.recipe(group, recipes[group.name]) for group in compared}
    for name, group in evaluated.items():
        if recipes[name].final is None:
            sample = sample_of(group, common(group.runs[0].prompt_ids, group.runs))
            recipes[name] = replace(recipes[name], final=sample.final, curves=sample.curves())
    for name, recipe in recipes.items():
        if name != base.name:
            recipes[name] = replace(recipe, not_compared=_why_not(name, base.name, evaluated, differing))
    notes += _method(runs, recipes.values())
    found = Comparison(
        metric=base.runs[0].metric if base.name in evaluated else None,
        baseline=base.name,
        target=study.goal if base.name in evaluated else target,
        prompts=len(prompts),
        recipes=tuple(_corrected(list(recipes.values()))),
        runs=tuple(run for group in groups for run in group.runs),
        verdict=(),
        notes=tuple(notes),
        target_is_final=target is None,
    )
    return replace(found, verdict=verdict(found))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data; of runs only name, recipe, seed, folder, costs and final accuracy."""
    runs = [
        {
            "name": run.name,
            "recipe": run.recipe,
            "seed": run.seed,
            "folder": str(run.folder),
            "costs": dict(run.costs),
            "final": None if run.evaluated_E is None else float(run.evaluated_E[-1]),
        }
        for run in comparison.runs
    ]
    plain: dict[str, Any] = finite(_plain(replace(comparison, runs=())) | {"runs": runs})
    return plain


def _baseline(groups: Sequence[Group], name: str | None) -> Group:
    """The group of that name, or the only one whose recipe was named so before its settings were added.

    Without a name, one that was evaluated comes first.
    """
    if name is None:
        groups = [group for group in groups if _evaluated(group).runs] or groups
    wanted = name or DEFAULT_BASELINE
    for group in groups:
        if group.name == wanted:
            return group
    variants = [group for group in groups if group.name.startswith(f"{wanted} (")]
    if name is None:
        return variants[0] if variants else groups[0]
    if len(variants) == 1:
        return variants[0]
    known = [group.name for group in groups]
    raise UsageError(f"no recipe '{name}' to compare with{did_you_mean(name, known)}; known: {'; '.join(known)}")


def _why_not(
    name: str, base: str, evaluated: Collection[str], differing: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Why a recipe is not compared with the baseline; empty if it is."""
    for side in (name, base):
        if side not in evaluated:
            return (f"{side} was not evaluated after training",)
    return differing.get(name, ())


def _method(runs: Sequence[Run], recipes: Iterable[Recipe]) -> Iterator[str]:
    if all(run.evaluated_E is None for run in runs):
        return
    if all(run.source == "eval" for run in runs):
        yield "95% intervals and tests are over prompts: they compare these models, not the methods that trained them."
        return
    if any(recipe.over_prompts for recipe in recipes):
        yield (
            "Differences from evaluations by prepo eval are over prompts: they compare these models, not the methods "
            "that trained them."
        )
    yield (
        "95% intervals are over seeds and prompts, or over prompts alone for a single seed. "
        "Differences are claimed on t-tests over seeds, with Holm's correction over recipes."
    )


def _evaluated(group: Group) -> Group:
    return replace(group, runs=tuple(run for run in group.runs if run.evaluated_E is not None))


def _bare(group: Group) -> Recipe:
    """A recipe of which nothing is found yet but its mean costs."""
    shared = [name for name in group.runs[0].costs if all(name in run.costs for run in group.runs)]
    return Recipe(
        name=group.name,
        runs=tuple(run.name for run in group.runs),
        seeds=group.seeds,
        final=None,
        area=None,
        difference=None,
        p_value=None,
        p_holm=None,
        better=None,
        cost_ratios={},
        seeds_needed=None,
        costs={name: sum(run.costs[name] for run in group.runs) / len(group.runs) for name in shared},
        curves={},
    )


def _corrected(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes with Holm's correction over those that were tested."""
    tested = {recipe.name: recipe.p_value for recipe in recipes if recipe.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [replace(recipe, p_holm=adjusted.get(recipe.name)) for recipe in recipes]


def _plain(value: Any) -> Any:
    """The value with dictionaries for records and lists for arrays."""
    if isinstance(value, Interval):
        return value._asdict()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
