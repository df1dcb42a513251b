"""Runs that do not learn: each symptom shows once on a series that has it, and none on runs that learn."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve
from prepo_cli.training.advice import advice, example
from prepo_cli.training.symptoms import GROUPS, GROUPS_AT_START, LASTING, STEPS, WINDOW, Symptoms

STUDY = Path(__file__).parents[2] / "docs" / "study" / "dead-0.8"


def line(**changes: Any) -> dict[str, Any]:
    healthy = {"reward": 0.4, "frac_reward_zero_std": 0.5, "entropy": 0.5, "groups_rolled": 16}
    healthy["completions/clipped_ratio"] = 0.1
    return healthy | {key.replace("__", "/"): value for key, value in changes.items()}


ZERO = line(reward=0.0, frac_reward_zero_std=1.0)
FLAT = line(reward=0.7, frac_reward_zero_std=1.0)
CUT = line(completions__clipped_ratio=0.95)


def shown(lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The steps at which each symptom is named."""
    symptoms, found = Symptoms(), dict[str, list[int]]()
    for step, each in enumerate(lines):
        for name in symptoms.observe(each):
            found.setdefault(name, []).append(step)
    return found


@pytest.mark.parametrize(("bad", "name"), [(ZERO, "no_reward"), (FLAT, "no_advantage"), (CUT, "cut_off")])
def test_what_lasts_shows_once(bad: dict[str, Any], name: str) -> None:
    assert shown([bad] * 200) == {name: [STEPS - 1]}
    later = shown([line()] + [bad] * 200)
    assert later == {name: [max(STEPS, GROUPS // 16)]}, "more groups are needed where it was not so from the start"
    assert shown(([bad] * (STEPS - 1) + [line()]) * 20) == {}, "it is broken again and again"
    assert shown([bad | {"groups_rolled": 2}] * (GROUPS_AT_START // 2)) == {name: [GROUPS_AT_START // 2 - 1]}


def test_rewards_that_average_zero_are_rewards() -> None:
    assert shown([line(reward=0.0, frac_reward_zero_std=0.9)] * 100) == {}


def test_entropy_falls_to_a_tenth() -> None:
    falling = [line(entropy=0.5 * 0.98**step) for step in range(400)]
    found = shown(falling)
    assert list(found) == ["entropy"] and len(found["entropy"]) == 1
    means = [sum(each["entropy"] for each in falling[i : i + WINDOW]) / WINDOW for i in range(400 - WINDOW)]
    first = next(i for i, mean in enumerate(means) if mean < 0.1 * means[0])
    assert found["entropy"] == [first + WINDOW - 1]
    assert shown([line(entropy=0.5 * 0.98 ** min(step, 90)) for step in range(400)]) == {}, "to a sixth"


def test_entropy_low_from_the_start() -> None:
    assert shown([line(entropy=0.005)] * 100) == {"entropy": [WINDOW - 1]}
    assert shown([line(entropy=None)] * 100) == {}, "an engine that records none"


def test_reward_falls_far_below_its_best_and_its_start() -> None:
    rising = [line(reward=0.3 + 0.005 * step) for step in range(100)]
    falling = [line(reward=0.8 - 0.01 * step) for step in range(80)]
    assert list(shown(rising + falling)) == ["reward"]
    assert len(shown(rising + falling)["reward"]) == 1
    assert shown(rising + [line(reward=0.3)] * 50) == {}, "back to where it started"
    assert shown([line(reward=-10.0)] * 30 + [line(reward=-12.0)] * 30) == {}
    assert list(shown([line(reward=-10.0)] * 30 + [line(reward=-30.0)] * 30)) == ["reward"]


def test_a_resumed_run_does_not_say_it_again() -> None:
    """It reads the lines that it keeps, as the first process read them."""
    lines = [ZERO] * 30
    for kept in range(30):
        symptoms = Symptoms()
        for each in json.loads(json.dumps(lines[:kept])):
            symptoms.observe(each)
        again = [name for each in lines[kept:] for name in symptoms.observe(each)]
        assert again == ([] if kept >= STEPS else ["no_reward"])


def test_lines_that_lack_metrics_are_no_symptom() -> None:
    assert shown([{"step": step} for step in range(100)]) == {}


@pytest.mark.parametrize(
    "recipe", ["full", "random", "calibrated", "greso", "dapo", "mopps", "e3", "random-selector=learnability"]
)
def test_runs_that_learned_show_none(recipe: str) -> None:
    for path in sorted(STUDY.glob(f"{recipe}-seed*/metrics.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            assert shown([json.loads(each) for each in file]) == {}, path


def test_a_run_whose_selector_walked_into_dead_prompts_shows_it() -> None:
    with gzip.open(STUDY / "ppl-schedule-seed0" / "metrics.jsonl.gz", "rt") as file:
        found = shown([json.loads(each) for each in file])
    assert {name: len(steps) for name, steps in found.items()} == {"no_reward": 1, "reward": 1}


def test_advice_is_one_line_with_the_figures_and_the_settings() -> None:
    config = resolve(flags={"output_dir": "runs/mine", "training.max_completion_length": 77})
    for symptom in (*LASTING, "entropy", "reward"):
        text = advice(symptom, "FIGURES", config)
        assert "FIGURES" in text and "\n" not in text and "ikely cause" in text
    assert "training.max_completion_length=77" in advice("cut_off", "5 steps", config)
    assert "prepo show runs/mine --wrong" in advice("no_reward", "5 steps", config)


@pytest.mark.parametrize(
    ("text", "seen"), [("so \\boxed{41}", "the answer '41'"), ("so 41 \x1b[2J" * 500, "no answer")]
)
def test_the_example_says_what_was_found_in_it(text: str, seen: str) -> None:
    shown = example("p0", "42", text)
    assert "gold answer '42'" in shown and seen in shown
    assert shown.isprintable() and len(shown) < 500
