"""Comparisons to draw, made of random curves: several recipes, several seeds, rollouts on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.comparison.result import AXES, Comparison, CostRatio, Curve, Recipe, Run
from prepo_cli.statistics import Interval

PHASES = ("select", "generate", "reward", "logprob", "update", "sync", "checkpoint")


def metrics(steps: int, recipe: int, seed: int) -> dict[str, np.ndarray]:
    """Columns as a run logs them; the recipe's number shifts them, odd ones select by perplexity and weigh."""
    rng = np.random.default_rng([recipe, seed])
    x = np.linspace(0, 1, steps)
    wrong, right = 0.5 - 0.2 * x + 0.02 * recipe, 0.1 + 0.3 * x - 0.01 * recipe
    wrong, right = (np.clip(share + rng.normal(0, 0.03, steps), 0, 1) for share in (wrong, right))
    found = {"frac_all_wrong": wrong, "frac_all_correct": right, "frac_reward_zero_std": wrong + right}
    found |= {f"timing_s/{name}": rng.gamma(2 + i, 0.1, steps) for i, name in enumerate(PHASES)}
    found["cost/tokens_generated"] = np.cumsum(rng.integers(3000, 4000, steps)).astype(float)
    found["cost/tokens_scored"] = np.cumsum(rng.integers(0, 500 * (recipe + 1), steps)).astype(float)
    weight = 1 + recipe % 2 * rng.random(steps)
    found |= {f"weighting/p{p}": weight ** (p / 50 - 1) for p in (0, 10, 50, 90, 100)}
    found["temperature"] = 1 + 0.1 * (recipe == 2) * x
    if recipe % 2:
        for side, center in (("candidates", np.full(steps, 5.0)), ("kept", 2 + 6 * x)):
            for name, factor in (("mean", 1.0), ("min", 0.5), ("max", 2.0)):
                found[f"selector/ppl_{side}_{name}"] = factor * center * rng.lognormal(0, 0.05, steps)
    return found


def write_rollouts(
    folder: Path, step: int, counts: Sequence[int], correct: Sequence[int], ppl: Sequence[float]
) -> None:
    """A step's rollouts: `counts[i]` of prompt i, `correct[i]` of them correct."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "group": [i for i, count in enumerate(counts) for _ in range(count)],
        "correct": [n < right for count, right in zip(counts, correct, strict=True) for n in range(count)],
        "ppl": [value for count, value in zip(counts, ppl, strict=True) for _ in range(count)],
    }
    pq.write_table(pa.table(columns), folder / f"step_{step:06d}.parquet")


def curve(recipe: int, scale: float) -> Curve:
    cost = np.linspace(0, 1, 12) * scale
    mean = 0.62 - 0.35 * np.exp(-np.linspace(0, 4, 12) * (1 + 0.15 * recipe))
    return Curve(cost, mean, mean - 0.02, mean + 0.02)


def ratio(recipe: int) -> CostRatio:
    if recipe % 5 == 4:
        return CostRatio(None, 1.6, None, 0.02)
    middle = 1.3 * 0.85**recipe
    return CostRatio(middle, middle * 0.8, None if recipe % 5 == 3 else middle * 1.3, 1.0)


def comparison(
    folder: Path, names: Sequence[str], seeds: int = 2, steps: int = 60, rollout_files: int = 0
) -> Comparison:
    """A comparison whose baseline is the first name; every third recipe's budgets vary."""
    runs, recipes = [], []
    for number, name in enumerate(names):
        members = [f"{number}-{seed}" for seed in range(seeds)]
        for seed, member in enumerate(members):
            runs.append(Run(member, name, seed, "prepo", folder / member, {}, metrics(steps, number, seed)))
            for step in range(rollout_files):
                rng = np.random.default_rng([number, seed, step])
                counts = rng.integers(4, 12, 32) if number % 3 == 2 else np.full(32, 8)
                ppl = rng.lognormal(1, 0.5, 32)
                correct = rng.binomial(counts, 1 / ppl.clip(1.1))
                write_rollouts(folder / member / "rollouts", step, counts.tolist(), correct.tolist(), ppl.tolist())
        base = number == 0
        recipes.append(
            Recipe(
                name=name,
                runs=tuple(members),
                seeds=tuple(range(seeds)),
                final=Interval(0.61, 0.6, 0.62),
                area=Interval(0.55, 0.54, 0.56),
                difference=None if base else Interval(0.01, -0.01, 0.02),
                p_value=None if base else 0.2,
                p_holm=None if base else 0.4,
                better=None if base else 0.7,
                cost_ratios={} if base else {axis: ratio(number) for axis in AXES},
                seeds_needed=12,
                costs={"rollouts": 15360.0, "tokens": 300_000.0, "seconds": 120.0},
                curves={axis: curve(number, scale) for axis, scale in zip(AXES, (15_360, 312_000, 187.0), strict=True)},
            )
        )
    return Comparison("avg@8", names[0], 0.61, 200, tuple(recipes), tuple(runs), ("verdict",), ())
