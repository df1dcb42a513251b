"""Recipes that were evaluated alike, each against the baseline: differences, tests and cost ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prepo_cli.comparison.recipes import Group
from prepo_cli.comparison.result import AXES, CostRatio, Recipe
from prepo_cli.comparison.sample import Sample, over_prompts, sample_of
from prepo_cli.seed_statistics import (
    cost_ratio,
    cost_to_reach,
    difference_spread,
    interval,
    mean_over_cost,
    p_value,
    probability_positive,
    seeds_needed,
)
from prepo_cli.statistics import DIFFERENCES, FloatArray, Interval

SAME_COST = 0.05
"""Relative difference in cost up to which recipes count as having cost the same."""
MAIN_AXIS = "rollouts"


class Study:
    """The recipes `groups`, `base` among them, on common prompts.

    Costs are counted to the accuracy `target`, or to the baseline's final one.
    """

    def __init__(self, base: Group, groups: Sequence[Group], prompts: Sequence[str], target: float | None) -> None:
        self.base, self.groups, self.prompts, self.target = base, groups, prompts, target
        self._samples: dict[tuple[str, ...], Sample] = {}
        spans = [cost_E for group in groups if (cost_E := self._mean_cost(group)) is not None]
        self._low = max((float(cost_E[0]) for cost_E in spans), default=0.0)
        self._high = min((float(cost_E[-1]) for cost_E in spans), default=0.0)

    @property
    def goal(self) -> float:
        """The accuracy that costs are counted to."""
        return float(self._goal_R(self.sample(self.base))[0])

    def sample(self, group: Group) -> Sample:
        """The group's sample, made once."""
        key = tuple(run.name for run in group.runs)
        if key not in self._samples:
            self._samples[key] = sample_of(group, self.prompts)
        return self._samples[key]

    def recipe(self, group: Group, bare: Recipe) -> Recipe:
        """What is found of a recipe, added to what is known of it already."""
        sample = self.sample(group)
        found = replace(bare, final=sample.final, area=self._area(sample), curves=sample.curves())
        if group is self.base:
            return found
        if any(run.source == "eval" for run in (*group.runs, *self.base.runs)):
            return replace(found, **self._over_prompts(sample, self.sample(self.base)))
        if min(len(group.runs), len(self.base.runs)) > 1:
            return replace(found, **self._over_seeds(group))
        return found

    def notes(self) -> list[str]:
        """What the reader must know of these samples."""
        notes, base = [], self._mean_cost(self.base)
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for group in self.groups:
            spent = self._mean_cost(group)
            if base is not None and spent is not None and abs(spent[-1] / base[-1] - 1) > SAME_COST:
                ratio = f"{spent[-1] / base[-1]:.2f} times {self.base.name}'s {MAIN_AXIS}"
                notes.append(
                    f"{group.name} was last evaluated after {ratio}, so final accuracies are not at equal cost."
                )
            both = self._shared_seeds(group)
            if both and (len(both) < len(group.seeds) or len(both) < len(self.base.seeds)):
                by_seeds.setdefault(tuple(both), []).append(group.name)
        for shared, names in by_seeds.items():
            notes.append(
                f"Compared with {self.base.name} on the {len(shared)} seeds that both have: {', '.join(names)}."
            )
        if base is not None and len(self.base.runs) > 1 and not self._has_cost(self.sample(self.base), MAIN_AXIS):
            notes.append(f"No cost ratios: {self._why_none()}.")
        return notes

    def _over_prompts(self, sample: Sample, base: Sample) -> dict[str, Any]:
        """Evaluations of two given models, paired by prompt."""
        final_P, base_P = sample.final_SP.mean(axis=0), base.final_SP.mean(axis=0)
        difference_R = sample.final_R - base.final_R
        return {
            "difference": over_prompts(difference_R, final_P - base_P, len(final_P), DIFFERENCES),
            "better": probability_positive(difference_R),
            "p_value": p_value(final_P, base_P, paired=True),
            "over_prompts": True,
        }

    def _over_seeds(self, group: Group) -> dict[str, Any]:
        """A recipe against the baseline, on the seeds that both have if these are two or more."""
        both = self._shared_seeds(group)
        paired = bool(both)
        sample, base = (self.sample(side.only(both) if paired else side) for side in (group, self.base))
        final_S, base_S = sample.final_SP.mean(axis=1), base.final_SP.mean(axis=1)
        spread = difference_spread(final_S, base_S, paired)
        difference_R = sample.final_R - base.final_R
        return {
            "difference": interval(difference_R),
            "better": probability_positive(difference_R),
            "p_value": p_value(final_S, base_S, paired),
            "cost_ratios": self._cost_ratios(sample, base),
            "seeds_needed": None if spread is None else seeds_needed(spread),
        }

    def _shared_seeds(self, group: Group) -> list[int]:
        """The seeds that the recipe and the baseline are paired by; none unless there are two or more."""
        both = sorted(set(group.seeds) & set(self.base.seeds))
        return both if len(both) > 1 else []

    def _cost_ratios(self, sample: Sample, base: Sample) -> dict[str, CostRatio]:
        goal_R, ratios = self._goal_R(base), {}
        for axis in AXES:
            if self._has_cost(base, axis) and axis in sample.cost_SE:
                cost_RE, base_RE = sample.cost_RE(axis), base.cost_RE(axis)
                cost_R = cost_to_reach(sample.rising_RE, cost_RE, goal_R)
                base_R = cost_to_reach(base.rising_RE, base_RE, goal_R)
                ratios[axis] = CostRatio(*cost_ratio(cost_R, cost_RE[:, -1], base_R, base_RE[:, -1]))
        return ratios

    def _goal_R(self, base: Sample) -> FloatArray:
        """The goal of every resample: the baseline's final accuracy there, or as far from it as the target is.

        So a target of one's own moves with the resampled prompts, which may be easier or harder for all recipes.
        """
        final_R = base.rising_RE[:, -1]
        return final_R if self.target is None else final_R - final_R[0] + self.target

    def _has_cost(self, base: Sample, axis: str) -> bool:
        """Whether the baseline reaches the goal at a cost that others can be a multiple of."""
        if axis not in base.cost_SE or base.cost_SE[axis].shape[1] < 2:
            return False
        cost = cost_to_reach(base.rising_RE[:1], base.cost_RE(axis)[:1], self._goal_R(base)[:1])[0]
        return bool(0 < cost < np.inf)

    def _why_none(self) -> str:
        base = self.sample(self.base)
        if base.values_SEP.shape[1] < 2:
            return f"{self.base.name} was evaluated once; set evaluation.eval_steps for a curve"
        if base.rising_RE[0, -1] < self.goal:
            return f"{self.base.name} never reaches {self.goal:.3f}"
        return f"{self.base.name} is at {self.goal:.3f} from the start"

    def _mean_cost(self, group: Group) -> FloatArray | None:
        cost_SE = self.sample(group).cost_SE.get(MAIN_AXIS)
        return None if cost_SE is None else np.asarray(cost_SE.mean(axis=0), dtype=np.float64)

    def _area(self, sample: Sample) -> Interval | None:
        if MAIN_AXIS not in sample.cost_SE or not self._low < self._high:
            return None
        return interval(mean_over_cost(sample.curve_RE, sample.cost_RE(MAIN_AXIS), self._low, self._high))
