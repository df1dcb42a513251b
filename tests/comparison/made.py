"""Comparisons made by hand for the page: three recipes, one with a hostile name, runs with and without rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.comparison.result import AXES, Comparison, CostRatio, Curve, Recipe, Run
from prepo_cli.statistics import Interval

HOSTILE = "</script><img src=x onerror=alert(1)><b>&amp;%{x}"
HOSTILE_TEXT = (
    "</pre></script><script>alert(2)</script><img src='https://example.org/x' onerror=alert(3)> \u2028 \u202e {{7*7}}"
)
NAMES = ("random", "calibrated", HOSTILE)
SCALE = {"rollouts": 40_000.0, "tokens": 9_600_000.0, "seconds": 310.0}
PARTS = {"tokens_generated": 9_000_000.0, "tokens_scored": 600_000.0}
FATES = ("trained", "trained", "filtered", "surplus", "masked", "trained")


def make_comparison(
    folder: Path, names: Sequence[str] = NAMES, seeds: int = 3, steps: int = 240, rollout_steps: Sequence[int] = (0, 50)
) -> Comparison:
    """A comparison of the named recipes, the first of which is the baseline and the last of which never reaches it."""
    runs = [
        make_run(folder / f"{i}-{seed}", name, i, seed, steps, rollout_steps if seed == 0 else ())
        for i, name in enumerate(names)
        for seed in range(seeds)
    ]
    recipes = tuple(make_recipe(name, i, len(names), runs) for i, name in enumerate(names))
    return Comparison(
        metric="avg@8",
        baseline=names[0],
        target=0.612,
        prompts=200,
        recipes=recipes,
        runs=tuple(runs),
        verdict=(
            f"calibrated reaches random's final accuracy with 0.45 [0.38, 0.57] of its rollouts ({seeds} seeds).",
            f"{HOSTILE}: no significant difference, +0.004 [-0.010, +0.018]; "
            "detecting a difference of 0.01 takes about 34 seeds.",
        ),
        notes=("The test set's 200 prompts were answered under every seed.", HOSTILE),
    )


def make_run(folder: Path, recipe: str, place: int, seed: int, steps: int, rollout_steps: Sequence[int]) -> Run:
    rng = np.random.default_rng([place, seed])
    progress_S = np.linspace(0, 1, steps)
    evaluated_E = 0.3 + 0.32 * (1 - np.exp(-4 * np.linspace(0, 1, 13))) + 0.01 * rng.standard_normal(13)
    metrics = {
        "step": np.arange(steps, dtype=np.float64),
        "reward": 0.4 + 0.2 * progress_S + 0.05 * rng.standard_normal(steps),
        "frac_reward_zero_std": 0.5 - 0.1 * place * progress_S + 0.05 * rng.standard_normal(steps),
        "entropy": 0.9 * np.exp(-2 * progress_S) + 0.02 * rng.standard_normal(steps),
        "temperature": np.ones(steps),
    }
    if place == 1:
        metrics["selector/ppl_kept_mean"] = 5 + 4 * progress_S + rng.standard_normal(steps)
    for step in rollout_steps:
        write_rollouts(folder / "rollouts", step, rng)
    return Run(
        name=f"{recipe[:30]}-{seed}",
        recipe=recipe,
        seed=seed,
        source="prepo",
        folder=folder,
        config={"seed": seed, "output_dir": str(folder), "selector": recipe, "training": {"beta": 0.01 * (place == 2)}},
        metrics=metrics,
        metric="avg@8",
        evaluated_E=evaluated_E,
        cost_E={axis: np.linspace(0, scale, 13) for axis, scale in SCALE.items()},
        costs=SCALE | PARTS,
    )


def make_recipe(name: str, place: int, count: int, runs: Sequence[Run]) -> Recipe:
    mine = [run for run in runs if run.recipe == name]
    mean_E = np.mean([run.evaluated_E for run in mine if run.evaluated_E is not None], axis=0)
    final, baseline = float(mean_E[-1]), place == 0
    never = place == count - 1
    ratio = CostRatio(None, 1.8, None, 0.12) if never else CostRatio(0.45 + place / 10, 0.38 + place / 10, 0.9, 1.0)
    return Recipe(
        name=name,
        runs=tuple(run.name for run in mine),
        seeds=tuple(run.seed for run in mine if run.seed is not None),
        final=Interval(final, final - 0.016, final + 0.016),
        area=Interval(final - 0.05, final - 0.06, final - 0.04),
        difference=None if baseline else Interval(0.014 - 0.02 * never, -0.002 - 0.02 * never, 0.03 - 0.02 * never),
        p_value=None if baseline else 0.0004,
        p_holm=None if baseline else 0.0008 if place == 1 else 0.41,
        better=None if baseline else 0.97 if place == 1 else 0.31,
        cost_ratios={} if baseline else dict.fromkeys(AXES, ratio),
        seeds_needed=None if baseline else 34,
        costs={name: amount * (1 + place / 10) for name, amount in (SCALE | PARTS).items()},
        curves={
            axis: Curve(np.linspace(0, scale, 13), mean_E, mean_E - 0.016, mean_E + 0.016)
            for axis, scale in SCALE.items()
        },
    )


def write_rollouts(folder: Path, step: int, rng: np.random.Generator, count: int = 24) -> None:
    """A step's rollouts, of which one is hostile and one very long."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"{i} + {i} = {2 * i}. \\boxed{{{2 * i}}}" for i in range(count)]
    texts[0], texts[1] = HOSTILE_TEXT, "again and " * 1000
    columns = {
        "prompt_id": [f"train-{i // 4:04d}" for i in range(count)],
        "prompt": [f"What is {i // 4} + {i // 4}? {HOSTILE_TEXT if i < 4 else ''}" for i in range(count)],
        "group": [i // 4 for i in range(count)],
        "text": texts,
        "reward": [float(i % 2) for i in range(count)],
        "correct": [bool(i % 2) for i in range(count)],
        "advantage": rng.standard_normal(count).tolist(),
        "weight": [1.0] * count,
        "length": [len(text) for text in texts],
        "fate": [FATES[i % len(FATES)] for i in range(count)],
    }
    pq.write_table(pa.table(columns), folder / f"step_{step:06d}.parquet")
