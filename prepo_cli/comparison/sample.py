"""A recipe's evaluations as arrays over seeds, evaluations and prompts, with their resamples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prepo_cli.comparison.recipes import Group
from prepo_cli.comparison.result import AXES, Curve, Run
from prepo_cli.seed_statistics import interval, isotonic, resampled_curves, seed_band, seed_weights
from prepo_cli.statistics import EQUAL, RATES, FloatArray, Interval, equal_interval


@dataclass(frozen=True)
class Sample:
    """Accuracies [S, E, P] and costs by axis [S, E] of a recipe, with the bootstrap's weights of its seeds [R, S].

    Where only means over prompts are known, these stand for a single prompt.
    """

    values_SEP: FloatArray
    cost_SE: Mapping[str, FloatArray]
    weights_RS: FloatArray

    @cached_property
    def curve_RE(self) -> FloatArray:
        """Mean accuracy at every evaluation."""
        return resampled_curves(self.values_SEP, self.weights_RS)

    @cached_property
    def rising_RE(self) -> FloatArray:
        """The same, made to never fall, so that noise neither helps nor hurts to reach a target."""
        return isotonic(self.curve_RE)

    @property
    def final_R(self) -> FloatArray:
        """Mean accuracy at the last evaluation."""
        return self.curve_RE[:, -1]

    @property
    def final(self) -> Interval:
        """Mean accuracy at the last evaluation with its interval."""
        return over_prompts(self.final_R, self.final_SP.ravel(), self.final_SP.shape[1], RATES)

    @property
    def final_SP(self) -> FloatArray:
        """Accuracy at the last evaluation."""
        return self.values_SEP[:, -1]

    def cost_RE(self, axis: str) -> FloatArray:
        """Mean cost of every evaluation."""
        return np.asarray(self.weights_RS @ self.cost_SE[axis], dtype=np.float64)

    def curves(self) -> dict[str, Curve]:
        """Accuracy over every cost that is known."""
        values_SE = self.values_SEP.mean(axis=2)
        low_E, high_E = seed_band(values_SE)
        return {axis: Curve(c.mean(axis=0), values_SE.mean(axis=0), low_E, high_E) for axis, c in self.cost_SE.items()}


def over_prompts(mean_R: FloatArray, values: FloatArray, prompts: int, bounds: tuple[float, float]) -> Interval:
    """The interval of resampled means, or, where the values behind them are all equal, `equal_interval`.

    A single prompt may stand for a mean, which has no such interval.
    """
    if prompts > 1 and np.ptp(values) <= EQUAL:
        return equal_interval(float(mean_R[0]), prompts, bounds=bounds)
    return interval(mean_R)


def sample_of(group: Group, prompts: Sequence[str]) -> Sample:
    """The group's evaluations on these prompts, or of their means without any.

    Runs that were evaluated a different number of times, as those that end at a cost may be, are aligned from the
    start, and their last evaluations with each other.
    """
    evaluations = min(len(_accuracy(run)) for run in group.runs)
    values = [_last_kept(_on(run, prompts), evaluations) for run in group.runs]
    shared = [axis for axis in AXES if all(axis in run.cost_E for run in group.runs)]
    costs = {a: np.stack([_last_kept(run.cost_E[a], evaluations) for run in group.runs]) for a in shared}
    return Sample(np.stack(values), costs, seed_weights(group.seeds or [run.name for run in group.runs]))


def common(prompts: Sequence[str], runs: Collection[Run]) -> tuple[str, ...]:
    """Those of the prompts that every run was evaluated on, in order."""
    shared = set(prompts).intersection(*(run.prompt_ids for run in runs))
    return tuple(prompt for prompt in prompts if prompt in shared)


def _accuracy(run: Run) -> FloatArray:
    assert run.evaluated_E is not None, f"{run.name} was not evaluated"
    return run.evaluated_E


def _on(run: Run, prompts: Sequence[str]) -> FloatArray:
    """Accuracies [E, P] on these prompts; the means [E, 1] without any."""
    if not prompts or run.evaluations_EP is None:
        return _accuracy(run)[:, None]
    place = {prompt: i for i, prompt in enumerate(run.prompt_ids)}
    return run.evaluations_EP[:, [place[prompt] for prompt in prompts]]


def _last_kept(values: FloatArray, evaluations: int) -> FloatArray:
    return values[[*range(evaluations - 1), len(values) - 1]]
