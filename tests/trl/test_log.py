"""What TRL's log shows: prepo's metrics under prepo's names, and totals of costs as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig

from prepo_cli import metrics
from tests.trl.worlds import coin, task, trainer


def logged(made: Any) -> list[dict[str, Any]]:
    return [line for line in made.state.log_history if "rounds" in line]


@pytest.mark.parametrize("recipe", ["prepo", "everything"])
def test_names_are_those_of_the_reference(recipe: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, recipe, max_steps=2)
    made.train()
    known = [*metrics.STEPS, *(each for group in metrics.of_strategies().values() for each in group)]
    names = set(logged(made)[-1])
    ours = {name for name in names if name.split("/")[0] in ("cost", "selector", "budget", "filter", "temperature")}
    assert {
        f"cost/{name}"
        for name in ("rollouts_total", "rollouts_trained", "tokens_generated", "tokens_scored", "seconds")
    } <= ours
    assert {"rounds", "groups_rolled", "groups_trained", "rollouts_trained", "temperature", "timing_s/select"} <= names
    assert not [name for name in ours if not metrics.described(name, known)]
    json.dumps(made.state.log_history)


def test_figures_of_a_step_are_over_all_its_rounds(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def noted(completions: list[Any], **columns: Any) -> list[float]:
        seen.append(coin(completions))
        return seen[-1]

    made = trainer(tmp_path, "dapo", reward=noted, max_steps=1)
    made.train()
    line, rewards = logged(made)[0], np.concatenate(seen)
    groups = rewards.reshape(-1, 4)
    assert line["rounds"] == len(seen) > 1
    assert line["groups_rolled"] == len(groups) and line["groups_trained"] == 4
    np.testing.assert_allclose(line["reward"], rewards.mean())
    np.testing.assert_allclose(line["reward_std"], rewards.std(ddof=1))
    np.testing.assert_allclose(line["frac_reward_zero_std"], (np.ptp(groups, axis=1) == 0).mean())
    assert line["cost/rollouts_total"] == len(rewards) and line["cost/rollouts_trained"] == 16


def test_totals_are_not_averaged_over_the_steps_of_a_line(tmp_path: Path) -> None:
    made = trainer(tmp_path, "grpo", max_steps=4, logging_steps=4)
    made.train()
    line = logged(made)[0]
    assert line["cost/rollouts_total"] == 4 * 16 and line["rounds"] == 1
    assert line["cost/seconds"] > 0


def test_what_is_correct_is_one_functions_verdict(tmp_path: Path) -> None:
    def right(completions: list[Any], **columns: Any) -> list[float]:
        return [2.0] * len(completions)

    options = {"verdict": "right", "correct_reward": 2.0}
    made = trainer(tmp_path, "grpo", reward=[coin, right], options=options, max_steps=1)  # type: ignore[arg-type]
    made.train()
    assert logged(made)[0]["frac_all_correct"] == 1
    made = trainer(tmp_path, "grpo", reward=[coin, right], options=options | {"correct_reward": 2.1}, max_steps=1)  # type: ignore[arg-type]
    made.train()
    assert logged(made)[0]["frac_all_wrong"] == 1


def test_adapters_train_and_resume_with_rounds_and_weights(tmp_path: Path) -> None:
    options = {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])}
    settings = {"save_strategy": "steps", "save_steps": 2, "beta": 0.1}
    made = trainer(tmp_path, "everything", options=options, max_steps=2, **settings)
    made.train()
    again = trainer(tmp_path, "everything", options=options, max_steps=3, **settings)
    again.train(resume_from_checkpoint=True)
    assert [line["step"] for line in logged(again)] == [1, 2, 3]
    assert again.session.step == 3


def test_a_strangers_plug_in_runs_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "examples" / "add_a_strategy"
    made = trainer(tmp_path, {"weighting": f"{folder}/short_answers.py:ShortAnswers:power=0.3"}, max_steps=2)
    made.train()
    assert [line["weighting/steps_seen"] for line in logged(made)] == [1, 2]
    named = trainer(tmp_path, {"weighting": "short-answers:power=0.3"}, max_steps=2, data=task(64))
    named.train()
    assert named.session.strategies.weighting.name == "short-answers"
    assert [line["loss"] for line in logged(named)] == [line["loss"] for line in logged(made)]
