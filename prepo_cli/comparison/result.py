"""What a comparison holds: the runs as read from disk, and what was found, as plain frozen records.

Axis letters: E evaluations of a run, S steps, P prompts of the evaluation set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prepo_cli.statistics import FloatArray, Interval

AXES = {"rollouts": "rollouts generated", "tokens": "tokens generated and scored", "seconds": "training seconds"}
"""The costs that accuracy is drawn against, with their labels."""
COSTS = {
    "rollouts": "rollouts",
    "tokens": "tokens",
    "tokens_generated": "generated",
    "tokens_scored": "scored",
    "seconds": "seconds",
}
"""The costs that tables show, with their headings: all tokens, and those generated and scored."""


@dataclass(frozen=True)
class Run:
    """A run, read from its folder. Metrics are columns over steps, NaN where a step or a stranger's log lacks one.

    `evaluations_EP` holds the accuracy (mean of k samples) of every prompt at every evaluation, `evaluated_E` its mean
    over prompts; a run that logs only means has no `evaluations_EP`. `cost_E` gives each evaluation's cost by axis, and
    `costs` the whole run's: by axis, besides `rollouts_trained`, `tokens_generated` and `tokens_scored` where known.
    """

    name: str
    recipe: str
    seed: int | None
    source: Literal["prepo", "eval", "trl", "verl"]
    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, FloatArray]
    metric: str | None = None
    prompt_ids: tuple[str, ...] = ()
    evaluations_EP: FloatArray | None = None
    evaluated_E: FloatArray | None = None
    cost_E: Mapping[str, FloatArray] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return max(map(len, self.metrics.values()), default=0)


@dataclass(frozen=True)
class CostRatio:
    """Cost to reach the baseline's final accuracy, as a multiple of what the baseline needs for it.

    `value` is None where the accuracy was never reached. Resamples that never reach it count as infinite for `high`,
    which is None where that is what it comes to, and as what was spent for `low`, so that it bounds from below what
    reaching it takes. `reached` is the share of resamples that reached it.
    """

    value: float | None
    low: float
    high: float | None
    reached: float

    @property
    def text(self) -> str:
        """For a person to read.

        >>> CostRatio(0.45, 0.38, 0.57, 1.0).text, CostRatio(0.9, 0.6, None, 0.8).text
        ('0.45 [0.38, 0.57]', '0.90 [0.60, ∞)')
        >>> CostRatio(None, 1.8, None, 0.0).text
        '> 1.80, never reached'
        """
        if self.value is None:
            return f"> {self.low:.2f}, never reached"
        return f"{self.value:.2f} [{self.low:.2f}, {'∞)' if self.high is None else f'{self.high:.2f}]'}"


@dataclass(frozen=True)
class Curve:
    """Mean accuracy of a recipe's runs over their mean cost at each evaluation [E], with its 95% band over seeds.

    With one seed the band has no width.
    """

    cost_E: FloatArray
    mean_E: FloatArray
    low_E: FloatArray
    high_E: FloatArray


@dataclass(frozen=True)
class Recipe:
    """What was found of one recipe: of all runs that agree in every setting but the seed.

    `difference`, `p_value`, `better` and `cost_ratios` are against the baseline, None for the baseline itself and where
    nothing can be claimed. `p_holm` is Holm's correction over recipes. `seeds_needed` is the number of seeds that would
    show a difference of 0.01 with 80% power. `not_compared` says why there is no comparison with the baseline;
    `over_prompts` marks the comparison of given models, prompt by prompt, which says nothing of other seeds.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    final: Interval | None
    area: Interval | None
    difference: Interval | None
    p_value: float | None
    p_holm: float | None
    better: float | None
    cost_ratios: Mapping[str, CostRatio]
    seeds_needed: int | None
    costs: Mapping[str, float]
    curves: Mapping[str, Curve]
    not_compared: tuple[str, ...] = ()
    over_prompts: bool = False


@dataclass(frozen=True)
class Comparison:
    """The whole comparison; `verdict` says in words what can be claimed, `notes` what the reader must know.

    `target` is the accuracy that costs are counted to: the baseline's final one, unless `target_is_final` is false.
    """

    metric: str | None
    baseline: str
    target: float | None
    prompts: int
    recipes: tuple[Recipe, ...]
    runs: tuple[Run, ...]
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    target_is_final: bool = True
