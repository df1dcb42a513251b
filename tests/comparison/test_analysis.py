"""The comparison of made-up runs against naive computations, known cases, and the words it finds for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from prepo_cli.comparison.analysis import as_json, compare
from prepo_cli.comparison.result import Comparison, CostRatio, Recipe, Run
from prepo_cli.comparison.verdict import verdict
from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.statistics import FloatArray, Interval

PROMPTS = 30
RISE = np.array([0.0, 0.2, 0.3, 0.35, 0.35])
COST = np.array([0.0, 100.0, 200.0, 300.0, 400.0])


def make_run(
    recipe: str = "random",
    seed: int = 0,
    rise: Sequence[float] | FloatArray = RISE,
    cost: Sequence[float] | FloatArray = COST,
    noise: float = 0.01,
    sets: Sequence[str] = (),
    **changes: Any,
) -> Run:
    """A run whose accuracy rises from each prompt's own level, the same prompts in every run, with noise of its own."""
    rng = np.random.default_rng([seed, sum(map(ord, recipe))])
    level_P = np.random.default_rng(0).random(PROMPTS) / 2
    values_EP = level_P + np.asarray(rise)[:, None] + noise * rng.normal(size=(len(rise), PROMPTS))
    run = Run(
        name=f"{recipe}-{seed}", recipe=recipe, seed=seed, source="prepo", folder=Path("runs") / f"{recipe}-{seed}",
        config=resolve(flags={"recipe": "random", "seed": seed}, sets=sets).model_dump(mode="json"),
        metrics={"step": np.arange(4.0)}, metric="avg@8", prompt_ids=tuple(f"p{i}" for i in range(PROMPTS)),
        evaluations_EP=values_EP, evaluated_E=values_EP.mean(axis=1),
        cost_E={"rollouts": np.asarray(cost, dtype=float), "seconds": np.asarray(cost) / 7 * (1 + seed / 100)},
        costs={"rollouts": float(cost[-1]), "seconds": float(cost[-1]) / 7},
    )  # fmt: skip
    return replace(run, **changes)


def several(recipe: str, seeds: Sequence[int] = range(5), **given: Any) -> list[Run]:
    return [make_run(recipe, seed, **given) for seed in seeds]


def renamed(runs: Sequence[Run], name: str) -> list[Run]:
    """The same runs, to the last digit, of another recipe."""
    return [replace(run, recipe=name, name=f"{name}-{run.seed}", folder=Path(f"{name}-{run.seed}")) for run in runs]


def found(comparison: Comparison, name: str) -> Recipe:
    return next(recipe for recipe in comparison.recipes if recipe.name == name)


def naive_study(a_SEP: FloatArray, b_SEP: FloatArray, paired: bool, resamples: int = 1500) -> tuple[Any, Any, Any]:
    """Differences, ratios of cost, and areas of a to b: one draw of seeds and prompts at a time, with scipy."""
    rng = np.random.default_rng(9)
    results = []
    for _ in range(resamples):
        columns = rng.integers(a_SEP.shape[2], size=a_SEP.shape[2])
        rows_a = rng.integers(len(a_SEP), size=len(a_SEP))
        rows_b = rows_a if paired else rng.integers(len(b_SEP), size=len(b_SEP))
        a_E, b_E = (v[rows][:, :, columns].mean(axis=(0, 2)) for v, rows in ((a_SEP, rows_a), (b_SEP, rows_b)))
        a_up, b_up = optimize.isotonic_regression(a_E).x, optimize.isotonic_regression(b_E).x
        reach = [first_cost(curve, b_up[-1]) for curve in (a_up, b_up)]
        results.append((a_E[-1] - b_E[-1], reach[0] / reach[1], np.trapezoid(a_E, COST) / 400))
    return tuple(zip(*results, strict=True))  # type: ignore[return-value]  # three columns


def first_cost(curve: FloatArray, target: float) -> float:
    fine = np.linspace(0, 400, 8001)
    above = np.interp(fine, COST, curve) >= target - 1e-9
    return float(fine[above.argmax()]) if above.any() else np.inf


@pytest.mark.parametrize("paired", [True, False])
def test_difference_ratio_and_area_are_those_of_naive_draws(paired: bool) -> None:
    b = several("random", range(4), noise=0.05)
    a = several("fast", range(4) if paired else range(4, 8), rise=[0, 0.29, 0.33, 0.41, 0.4], noise=0.05)
    recipe = found(compare([*b, *a]), "fast")
    a_SEP, b_SEP = (np.stack([run.evaluations_EP for run in runs]) for runs in (a, b))  # type: ignore[arg-type]  # runs with prompts
    differences, ratios, areas = naive_study(a_SEP, b_SEP, paired)
    assert recipe.difference is not None and recipe.area is not None and recipe.better is not None
    assert recipe.difference.value == pytest.approx((a_SEP - b_SEP)[:, -1].mean())
    assert recipe.difference[1:] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.004)
    assert recipe.better == pytest.approx(np.mean(np.array(differences) > 0), abs=0.03)
    assert recipe.area[1:] == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.01)
    ratio = recipe.cost_ratios["rollouts"]
    assert ratio.high is not None and ratio.value is not None
    a_up, b_up = (optimize.isotonic_regression(v.mean(axis=(0, 2))).x for v in (a_SEP, b_SEP))
    assert ratio.value == pytest.approx(first_cost(a_up, b_up[-1]) / first_cost(b_up, b_up[-1]), abs=0.001)
    assert (ratio.low, ratio.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.03)
    final_a, final_b = a_SEP[:, -1].mean(axis=1), b_SEP[:, -1].mean(axis=1)
    test = stats.ttest_rel(final_a, final_b) if paired else stats.ttest_ind(final_a, final_b, equal_var=False)
    assert recipe.p_value == pytest.approx(test.pvalue)


def test_half_the_cost_is_a_ratio_of_a_half() -> None:
    slow = several("random", cost=2 * COST, noise=0)
    fast = [replace(run, cost_E={"rollouts": COST}) for run in renamed(slow, "fast")]
    recipe = found(compare([*slow, *fast]), "fast")
    assert recipe.cost_ratios == {"rollouts": CostRatio(0.5, 0.5, 0.5, 1.0)}
    assert recipe.p_value is None  # not one seed differs from its twin
    assert recipe.difference == Interval(0, 0, 0)


def test_a_recipe_against_itself_shows_nothing() -> None:
    runs = several("random")
    comparison = compare([*runs, *renamed(runs, "same")])
    recipe = found(comparison, "same")
    assert recipe.better == 0.5
    assert recipe.cost_ratios["rollouts"] == CostRatio(1, 1, 1, 1)
    assert comparison.verdict[0].startswith("same: no significant difference, +0.000 [+0.000, +0.000]")


def test_the_target_is_where_the_baseline_stops_rising() -> None:
    """A baseline that was flat at the end is credited for being there early."""
    flat = several("random", rise=[0, 0.3, 0.3, 0.3, 0.3], noise=0)
    slow = several("slow", rise=[0, 0.1, 0.2, 0.3, 0.4], noise=0)
    ratio = found(compare([*flat, *slow]), "slow").cost_ratios["rollouts"]
    assert ratio.value == pytest.approx(3)
    assert compare([*flat, *slow]).target == pytest.approx(flat[0].evaluated_E[-1])  # type: ignore[index]


def test_what_never_reaches_the_target_is_censored() -> None:
    comparison = compare([*several("random", rise=[0, 0.2, 0.3, 0.36, 0.34]), *several("weak", rise=RISE / 3)])
    ratio = found(comparison, "weak").cost_ratios["rollouts"]
    assert (ratio.value, ratio.high, ratio.reached) == (None, None, 0)
    assert ratio.low == pytest.approx(400 / 283, rel=0.06)
    (sentence,) = comparison.verdict
    assert "weak does not reach random's final accuracy" in sentence and "takes more than 1.3" in sentence
    assert "ends lower than random" in sentence


def test_a_target_of_ones_own() -> None:
    runs = [*several("random", noise=0), *several("fast", rise=RISE * 1.5, noise=0)]
    level = float(runs[0].evaluated_E[0])  # type: ignore[index]
    comparison = compare(runs, target=level + 0.15)
    assert (comparison.target, comparison.target_is_final) == (level + 0.15, False)
    ratio = found(comparison, "fast").cost_ratios["rollouts"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((50 / 75, 50 / 75, 50 / 75))  # whatever the prompts
    assert comparison.verdict[0].startswith(f"fast reaches the target accuracy ({level + 0.15:.3f}) with 0.67 [")
    for target, why in ((0.99, "never reaches 0.990"), (0.01, "is at 0.010 from the start")):
        comparison = compare(runs, target=target)
        assert found(comparison, "fast").cost_ratios == {}
        assert f"No cost ratios: random {why}." in comparison.notes


def test_without_a_curve_there_are_no_cost_ratios() -> None:
    runs = [*several("random", rise=[0.3], cost=[400]), *several("fast", rise=[0.4], cost=[400])]
    comparison = compare(runs)
    assert found(comparison, "fast").cost_ratios == {}
    assert "No cost ratios: random was evaluated once; set evaluation.eval_steps for a curve." in comparison.notes


def test_with_one_seed_nothing_is_claimed() -> None:
    comparison = compare([make_run(), make_run("fast", rise=RISE * 2)])
    recipe = found(comparison, "fast")
    assert (recipe.difference, recipe.p_value, recipe.better, recipe.cost_ratios) == (None, None, None, {})
    assert recipe.final is not None and recipe.final.low < recipe.final.value < recipe.final.high
    (sentence,) = comparison.verdict
    assert sentence.startswith("One seed supports no claim")
    mixed = compare([*several("random"), *several("fast", rise=RISE * 2), make_run("lone")])
    assert mixed.verdict[-1] == "lone: one seed supports no claim."
    assert len(mixed.verdict) == 2


def test_one_recipe_has_nothing_to_be_compared_with() -> None:
    assert compare(several("dapo")).verdict == ("There is only one recipe, dapo, so nothing to compare it with.",)
    with pytest.raises(UsageError, match="no runs to compare"):
        compare([])


def test_recipes_that_share_some_seeds_are_compared_on_these() -> None:
    many, few = several("random", range(6)), several("fast", range(3), rise=RISE * 1.2)
    comparison = compare([*many, *few, *several("slow", range(3), rise=RISE * 0.8)])
    alone = compare([*many[:3], *few])
    assert found(comparison, "fast").difference == found(alone, "fast").difference
    assert found(comparison, "fast").cost_ratios == found(alone, "fast").cost_ratios
    assert "Compared with random on the 3 seeds that both have: fast, slow." in comparison.notes
    assert found(comparison, "random").seeds == (0, 1, 2, 3, 4, 5)


def test_runs_that_differ_in_how_they_computed_are_one_recipe() -> None:
    runs = [make_run(seed=0), make_run(seed=1, sets=["training.save_steps=7", "engine.name=vllm", "rewards.workers=1"])]
    older = make_run(seed=2)
    older.config["training"].pop("beta")  # type: ignore[attr-defined]
    (recipe,) = compare([*runs, older]).recipes
    assert (recipe.name, recipe.seeds) == ("random", (0, 1, 2))


def test_namesakes_show_the_setting_that_differs() -> None:
    fast = several("random", range(5, 8), sets=["training.learning_rate=2e-5"])
    comparison = compare([*several("random"), *fast])
    names = [recipe.name for recipe in comparison.recipes]
    assert names == ["random (training.learning_rate=0.0001)", "random (training.learning_rate=2e-05)"]
    assert comparison.baseline == names[0]
    assert {run.recipe for run in comparison.runs} == set(names)
    assert compare([*several("random"), *fast], baseline=names[1]).baseline == names[1]


def test_the_baseline_is_random_or_the_first_or_the_named() -> None:
    runs = [*several("dapo"), *several("random"), *several("greso")]
    assert compare(runs).baseline == "random"
    assert compare(runs[:5] + runs[10:]).baseline == "dapo"
    assert compare(runs, baseline="greso").baseline == "greso"
    with pytest.raises(UsageError, match=r"no recipe 'gresso' .*did you mean 'greso'.*known: dapo; random; greso"):
        compare(runs, baseline="gresso")


def test_a_seed_that_is_there_twice_counts_once() -> None:
    twin = make_run(seed=1, name="again", folder=Path("other/again"))
    comparison = compare([*several("random"), twin, make_run(seed=0)])
    assert found(comparison, "random").runs == tuple(f"random-{seed}" for seed in range(5))
    assert "again was left out: random with seed 1 is already included as random-1." in comparison.notes


def test_namesake_folders_are_told_apart() -> None:
    runs = [make_run(seed=s, name="run", folder=Path(f"{s}/run")) for s in range(2)]
    assert compare(runs).recipes[0].runs == ("0/run", "1/run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "avg@4"}, "metric avg@4 instead of avg@8"),
        ({"sets": ["evaluation.temperature=0.6"]}, "temperature 0.6 instead of 1.0"),
        ({"sets": ["training.max_completion_length=64"]}, "completion length 64 instead of 96"),
        ({"prompt_ids": tuple(f"q{i}" for i in range(PROMPTS))}, "different prompts"),
    ],
)
def test_what_was_evaluated_otherwise_is_not_compared(changes: dict[str, Any], words: str) -> None:
    comparison = compare([*several("random"), *several("other", **changes)])
    recipe = found(comparison, "other")
    assert recipe.difference is None and recipe.area is None and recipe.cost_ratios == {}
    assert recipe.not_compared == (words,)
    assert {r["name"]: r["not_compared"] for r in as_json(comparison)["recipes"]} == {"random": [], "other": [words]}
    assert recipe.final is not None and recipe.curves
    assert f"other is not compared with random: it was evaluated with {words}." in comparison.notes
    assert comparison.verdict == ("Nothing could be compared; see the notes.",)


def test_only_common_prompts_count() -> None:
    runs = [*several("random", noise=0), *several("fast", rise=RISE * 1.2, noise=0)]
    fewer = [
        replace(
            run,
            prompt_ids=run.prompt_ids[10::-1],
            evaluations_EP=run.evaluations_EP[:, 10::-1],  # type: ignore[index]
        )
        for run in runs[5:]
    ]
    comparison = compare([*runs[:5], *fewer])
    assert comparison.prompts == 11
    assert "Accuracies are over the 11 of 30 prompts that all evaluations share." in comparison.notes
    difference = found(comparison, "fast").difference
    assert difference == pytest.approx((0.07, 0.07, 0.07))


def test_runs_without_evaluation_are_named_and_have_no_curves() -> None:
    blank = {"evaluated_E": None, "evaluations_EP": None, "prompt_ids": (), "cost_E": {}}
    comparison = compare(
        [*several("random"), make_run("fast", 0), make_run("fast", 1, **blank), make_run("b", **blank)]
    )
    assert found(comparison, "b").curves == {} and found(comparison, "b").final is None
    assert found(comparison, "fast").runs == ("fast-0", "fast-1")
    assert "Not evaluated after training: fast-1, b-0." in comparison.notes
    nothing = compare([make_run(seed=s, **blank) for s in range(2)])
    assert (nothing.target, nothing.prompts, nothing.recipes[0].final) == (None, 0, None)
    assert (nothing.metric, nothing.notes) == (None, ("Not evaluated after training: random-0, random-1.",))


def test_the_baseline_is_one_that_was_evaluated() -> None:
    blank = {"evaluated_E": None, "evaluations_EP": None, "prompt_ids": (), "cost_E": {}}
    runs = [*several("random", **blank), *several("a"), *several("b", rise=RISE * 1.2)]
    comparison = compare(runs)
    assert comparison.baseline == "a"
    assert found(comparison, "b").difference is not None
    assert found(comparison, "random").not_compared == ("random was not evaluated after training",)
    named = compare(runs, baseline="random")
    assert named.verdict == ("Nothing could be compared; see the notes.",)
    assert found(named, "b").not_compared == ("random was not evaluated after training",)


def test_runs_that_end_at_a_cost_are_aligned_at_their_ends() -> None:
    longer = make_run(seed=1, rise=[*RISE[:4], 0.36, 0.35], cost=[*COST[:4], 390, 400], noise=0)
    comparison = compare([make_run(seed=0, noise=0), longer])
    curve = found(comparison, "random").curves["rollouts"]
    assert curve.cost_E.tolist() == COST.tolist()
    assert curve.mean_E - curve.mean_E[0] == pytest.approx(RISE)


def test_unequal_cost_is_said() -> None:
    comparison = compare([*several("random"), *several("dapo", cost=1.8 * COST)])
    note = "dapo was last evaluated after 1.80 times random's rollouts, so final accuracies are not at equal cost."
    assert note in comparison.notes


def test_means_without_prompts_are_compared_over_seeds() -> None:
    means = {"evaluations_EP": None, "prompt_ids": (), "source": "trl", "config": {}}
    runs = [*several("a", **means), *several("b", rise=RISE * 1.2, **means)]
    runs = [replace(run, config={"kind": run.recipe}) for run in runs]
    recipe = found(compare(runs), "b")
    assert recipe.difference is not None and recipe.difference.value == pytest.approx(0.07, abs=0.01)
    assert recipe.difference.high - recipe.difference.low < 0.02
    assert compare(runs).prompts == 0


def evaluation(model: str, shift: float, noise: float = 0.05) -> Run:
    run = make_run(model, rise=[shift], cost=[0], noise=noise)
    config = {"model": {"model_name_or_path": model}, "k": 8, "temperature": 1.0, "seed": 0}
    return replace(run, source="eval", config=config, metrics={}, cost_E={}, costs={})


def test_evaluations_are_compared_over_prompts() -> None:
    comparison = compare([evaluation("a", 0.1), evaluation("b", 0.2), evaluation("c", 0.1)])
    recipe = found(comparison, "b")
    a_P, b_P = (evaluation(m, s).evaluations_EP[0] for m, s in (("a", 0.1), ("b", 0.2)))  # type: ignore[index]
    means = [np.mean((b_P - a_P)[np.random.default_rng(i).integers(PROMPTS, size=PROMPTS)]) for i in range(2000)]
    assert recipe.difference is not None
    assert recipe.difference[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.003)
    assert recipe.p_value == pytest.approx(stats.ttest_rel(b_P, a_P).pvalue)
    assert comparison.verdict[0].startswith("b scores higher than a: +0.") and "30 prompts" in comparison.verdict[0]
    assert comparison.verdict[1].startswith("c: no significant difference from a, ")
    assert "not the methods that trained them" in comparison.notes[-1]


EVALUATED = {
    "dataset_name": "embedded", "split": "test", "temperature": 1.0, "top_p": 1.0, "max_completion_length": 96,
    "rewards": {"functions": ["math"]},
}  # fmt: skip


def test_an_evaluation_and_a_run_are_compared_over_prompts() -> None:
    model = evaluation("a", 0.3)
    model = replace(model, config={**model.config, **EVALUATED})
    comparison = compare([*several("random"), *several("fast", rise=RISE * 1.5), model])
    recipe, fast = found(comparison, "a"), found(comparison, "fast")
    a_P = model.evaluations_EP[0]  # type: ignore[index]
    base_P = np.mean([run.evaluations_EP[-1] for run in several("random")], axis=0)  # type: ignore[index]
    assert recipe.over_prompts and not fast.over_prompts
    assert recipe.difference is not None and recipe.difference.value == pytest.approx((a_P - base_P).mean())
    assert recipe.p_value == pytest.approx(stats.ttest_rel(a_P, base_P).pvalue)
    assert fast.p_value is not None and fast.cost_ratios
    assert comparison.verdict[0].startswith("a scores lower than random: -0.0")
    assert comparison.verdict[1].startswith("fast ")
    assert "Differences from evaluations by prepo eval are over prompts" in comparison.notes[-2]


def test_rewards_that_do_not_decide_correctness_are_no_other_condition() -> None:
    styled = several("styled", sets=["rewards.functions=[exact, math]", "rewards.weights=[0.1, 1]"])
    assert found(compare([*several("random"), *styled]), "styled").difference is not None
    stricter = several("strict", sets=["rewards.correct_reward=2"])
    assert found(compare([*several("random"), *stricter]), "strict").not_compared == (
        "verdict math >= 2.0 instead of math",
    )


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_or_none_right_is_no_certainty(rate: float) -> None:
    values_EP = np.full((1, PROMPTS), rate)
    runs = [
        replace(evaluation(name, 0.0), evaluations_EP=values_EP, evaluated_E=values_EP.mean(axis=1))
        for name in ("a", "b")
    ]
    recipe = found(compare(runs), "b")
    ends = stats.binomtest(round(rate * PROMPTS), PROMPTS).proportion_ci(method="wilson")
    assert recipe.final == pytest.approx((rate, ends.low, ends.high))
    width = ends.high - ends.low
    assert recipe.difference == pytest.approx((0, -width, width))


def test_holm_counts_the_recipes_that_were_tested() -> None:
    runs = [run for name in ("random", "a", "b", "c") for run in several(name, noise=0.1)]
    comparison = compare([*runs, make_run("lone")])
    p_values = sorted(recipe.p_value for recipe in comparison.recipes if recipe.p_value is not None)
    smallest = min((r for r in comparison.recipes if r.p_value), key=lambda r: r.p_value or 1)
    assert len(p_values) == 3
    assert smallest.p_holm == pytest.approx(min(1, 3 * p_values[0]))


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(9)))
def test_the_order_of_runs_does_not_matter(order: list[int]) -> None:
    comparison = compare([ORDERED[i] for i in order])
    assert sorted(comparison.recipes, key=lambda r: r.name)[0].cost_ratios == ORDERED_RATIOS
    assert sorted(comparison.verdict) == sorted(compare(ORDERED).verdict)


ORDERED = [run for name in ("random", "a", "b") for run in several(name, range(3), noise=0.05)]
ORDERED_RATIOS = found(compare(ORDERED), "a").cost_ratios


def test_it_is_plain_data() -> None:
    runs = [*several("random"), *several("fast", rise=RISE * 1.2)]
    comparison = compare([replace(run, costs=run.costs | {"seconds": float("nan")}) for run in runs])
    plain = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    assert set(plain["recipes"][1]["difference"]) == {"value", "low", "high"}
    assert plain["recipes"][1]["cost_ratios"]["rollouts"]["reached"] == 1.0
    assert plain["recipes"][0]["curves"]["rollouts"]["cost_E"] == COST.tolist()
    assert plain["runs"][0] == {
        "name": "random-0", "recipe": "random", "seed": 0, "folder": "runs/random-0",
        "costs": {"rollouts": 400.0, "seconds": None}, "final": runs[0].evaluated_E[-1],  # type: ignore[index]
    }  # fmt: skip


BASE = Recipe("random", ("r0", "r1"), (0, 1, 2), None, None, None, None, None, None, {}, None, {}, {})


@pytest.mark.parametrize(
    ("difference", "p_holm", "ratio", "needed", "sentence"),
    [
        (
            (0.021, 0.012, 0.03), 0.001, CostRatio(0.45, 0.38, 0.57, 1), 4,
            "mine reaches random's final accuracy (0.610) with 0.45 [0.38, 0.57] of its rollouts and ends higher than "
            "random: +0.021 [+0.012, +0.030] (3 seeds).",
        ),
        (
            (0.004, -0.01, 0.018), 0.6, CostRatio(0.45, 0.38, 0.57, 1), 34,
            "mine reaches random's final accuracy (0.610) with 0.45 [0.38, 0.57] of its rollouts (3 seeds); no "
            "significant difference in final accuracy, +0.004 [-0.010, +0.018].",
        ),
        (
            (0.004, -0.01, 0.018), 0.05, CostRatio(0.9, 0.7, 1.2, 1), 34,
            "mine: no significant difference, +0.004 [-0.010, +0.018]; detecting a difference of 0.01 takes "
            "about 34 seeds.",
        ),
        (
            (0.004, -0.01, 0.018), None, CostRatio(0.9, 0.7, None, 0.8), 3,
            "mine: no significant difference, +0.004 [-0.010, +0.018]; 3 seeds would most likely have detected a "
            "difference of 0.01.",
        ),
        (
            (-0.02, -0.03, -0.01), 0.01, CostRatio(1.6, 1.3, None, 0.9), None,
            "mine reaches random's final accuracy (0.610) with 1.60 [1.30, ∞) times its rollouts and ends lower "
            "than random: -0.020 [-0.030, -0.010] (3 seeds).",
        ),
        (
            (-0.02, -0.03, -0.01), 0.01, CostRatio(None, 0.9, None, 0.1), None,
            "mine ends lower than random: -0.020 [-0.030, -0.010] (3 seeds).",
        ),
    ],
)  # fmt: skip
def test_the_verdict_in_words(
    difference: tuple[float, float, float], p_holm: float | None, ratio: CostRatio, needed: int | None, sentence: str
) -> None:
    mine = replace(
        BASE, name="mine", difference=Interval(*difference), p_holm=p_holm, cost_ratios={"rollouts": ratio},
        seeds_needed=needed,
    )  # fmt: skip
    assert verdict(Comparison("avg@8", "random", 0.61, 200, (BASE, mine), (), (), ())) == (sentence,)
