"""Statistics of the comparison against golden values and hand calculations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prepo_cli.errors import UsageError
from prepo_cli.reporting.compare import Run, compare, default_target, rollouts_to


def run(name: str, points: list[tuple[int, float]], metric: str = "avg@4", seed: int = 0) -> Run:
    evaluations: list[dict[str, Any]] = [
        {
            "step": i, metric: {"value": v, "low": v - 0.1, "high": v + 0.1}, "rollouts_total": r,
            "prompt_ids": ["a", "b"], "per_prompt": [v, v],
        }
        for i, (r, v) in enumerate(points)
    ]  # fmt: skip
    cost = {
        "rollouts_total": points[-1][0],
        "rollouts_trained": 1,
        "tokens_generated": 2,
        "tokens_scored": 3,
        "seconds": 4,
    }
    after = {metric: evaluations[-1][metric]}
    summary = {"recipe": name, "strategies": {}, "seed": seed, "metric": metric, "after": after, "cost": cost}
    return Run(name, {}, summary, [], evaluations)


POINTS = [(0, 0.2), (100, 0.4), (200, 0.3), (300, 0.8)]


@pytest.mark.parametrize(
    ("target", "rollouts"), [(0.1, 0.0), (0.2, 0.0), (0.4, 100.0), (0.3, 50.0), (0.55, 250.0), (0.7, 280.0)]
)
def test_rollouts_to_a_target_are_interpolated_at_the_first_crossing(target: float, rollouts: float) -> None:
    assert rollouts_to(POINTS, target) == pytest.approx(rollouts)


def test_a_target_that_is_never_reached() -> None:
    assert rollouts_to(POINTS, 0.9) is None
    assert rollouts_to([], 0.1) is None


def test_the_default_target_is_the_worst_runs_best() -> None:
    runs = [run("a", [(0, 0.2), (10, 0.6), (20, 0.5)]), run("b", [(0, 0.2), (10, 0.4)])]
    assert default_target(runs) == 0.4
    rows = compare(runs)["runs"]
    assert rows[0]["rollouts_to_target"] == pytest.approx(5.0)
    assert rows[1]["rollouts_to_target"] == pytest.approx(10.0)


def test_the_difference_is_paired_and_to_the_first() -> None:
    rows = compare([run("a", [(0, 0.2), (10, 0.6)]), run("b", [(0, 0.2), (10, 0.4)])])["runs"]
    assert rows[0]["difference_to_first"] is None
    assert rows[1]["difference_to_first"]["value"] == pytest.approx(-0.2)


def test_seeds_of_a_recipe_are_averaged_with_their_spread() -> None:
    runs = [run("a", [(0, 0.2), (10, v)], seed=i) for i, v in enumerate((0.5, 0.7))]
    (line,) = compare(runs)["recipes"]
    assert (line["seeds"], line["final"]) == (2, pytest.approx(0.6))
    assert line["final_spread"] == pytest.approx(0.2 / 2**0.5)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    runs = [run("a", [(0, 0.2), (10, v)], seed=i) for i, v in enumerate((0.5, 0.7, 0.9))]
    runs = [
        replace(r, config={"seed": i, "engine": {"name": e}}) for i, (r, e) in enumerate(zip(runs, "aab", strict=True))
    ]
    lines = compare(runs)["recipes"]
    assert [(line["seeds"], line["final"]) for line in lines] == [(2, pytest.approx(0.6)), (1, pytest.approx(0.9))]


def test_runs_with_different_k_are_refused() -> None:
    with pytest.raises(UsageError, match="different k"):
        compare([run("a", [(0, 0.1)]), run("b", [(0, 0.1)], metric="avg@8")])
