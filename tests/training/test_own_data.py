"""A run on own data without an evaluation set: what is held out, evaluated, trained on, recorded, resumed and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines
from prepo_cli.reporting.card import model_card
from prepo_cli.training.train import train
from tests.metrics import timeless

SMALL = {
    "recipe": "full",
    "training.total_steps": 4,
    "training.prompts_per_step": 16,
    "training.num_generations": 2,
    "training.max_completion_length": 16,
    "training.save_steps": 2,
    "evaluation.num_samples": 2,
    "reporting.figures": False,
    "rewards.workers": 1,
}
TERMS = [(a, b) for a in range(23, 95, 9) for b in range(31, 99, 9)]
SCORED = {
    "rewards__functions": ["math", "tests.training.rewards:short"],
    "rewards__weights": [1, 0.5],
    "evaluation__eval_steps": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 prompts without ids, one of them twice."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in [*TERMS, TERMS[0]]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    """A run with two rewards that is evaluated after every step."""
    run(data, data.parent / "run", **SCORED)
    return data.parent / "run"


def run(data: Path, folder: Path, resume: bool = False, **changes: Any) -> dict[str, Any]:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    config = resolve(flags={**SMALL, "data.dataset_name": str(data), "output_dir": str(folder), **given})
    summary = train(config, resume=resume)
    assert summary is not None
    return summary


def rolled_out(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "rollouts").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_half_of_a_small_set_is_evaluated_and_never_trained_on(data: Path, finished: Path) -> None:
    lines = read_lines(finished / "evaluations.jsonl")
    held_out = lines[0]["prompt_ids"]
    assert [(line["step"], line["name"], line["prompt_ids"]) for line in lines] == [
        (step, "holdout", held_out) for step in range(5)
    ]
    questions = [json.loads(line)["question"] for line in data.read_text().splitlines()]
    asked, rows = {questions[int(name)] for name in held_out}, rolled_out(finished)
    assert len(asked) == 32 and {row["prompt"] for row in rows} == set(questions) - asked
    assert all(row["prompt"] == questions[int(row["prompt_id"])] for row in rows)


def test_the_hold_out_is_named_in_summary_and_card(data: Path, finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["evaluation_set"] == f"held-out prompts of {data}"
    assert summary["after"]["prompts"] == 32
    card = model_card(resolve([finished / "config.yaml"]), summary)
    assert "Prompts of sums.jsonl held out from training: 32 prompts, 2 samples each" in card
    assert "name: sums.jsonl (held-out prompts)" in card and str(data.parent) not in card


def test_rollouts_hold_the_gold_answer_and_each_rewards_value(finished: Path) -> None:
    rows = rolled_out(finished)
    assert len({row["reward"] for row in rows}) > 2
    for row in rows:
        a, b = (int(word.strip("?")) for word in row["prompt"].split() if word[0].isdigit())
        assert row["gold"] == str(a + b)
        values = row["reward_math"], row["reward_tests.training.rewards:short"]
        assert row["reward"] == pytest.approx(values[0] + 0.5 * values[1])
        assert row["correct"] == (values[0] == 1)


def test_a_resumed_run_holds_out_the_same(data: Path, finished: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(finished, stopped)
    shutil.rmtree(stopped / "final")
    shutil.rmtree(stopped / "checkpoints" / "step-000004")
    with pytest.raises(UsageError, match=r"evaluation.holdout=0.05"):
        run(data, stopped, resume=True, **SCORED, evaluation__holdout=0)
    run(data, stopped, resume=True, **SCORED)
    assert timeless(stopped) == timeless(finished)
    whole, again = (read_lines(folder / "evaluations.jsonl") for folder in (finished, stopped))
    assert [line["per_prompt"] for line in again] == [line["per_prompt"] for line in whole]


def test_it_is_said_at_the_start(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"training__total_steps": 1, "evaluation__at_start": False, "evaluation__at_end": False}
    run(data, tmp_path / "run", evaluation__limit=10, **options)
    said = "prepo: 32 of 65 prompts are held out for evaluation, 10 of them evaluated (evaluation.limit); 1 duplicate"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "off", [{"evaluation__holdout": 0}, {"evaluation__dataset_name": "embedded", "evaluation__limit": 3}]
)
def test_nothing_is_held_out_if_that_is_wanted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], off: dict[str, Any]
) -> None:
    summary = run(data, tmp_path / "run", training__total_steps=1, **off)
    said = capsys.readouterr().err
    assert "65 prompts;" in said and "held out" not in said
    assert summary["evaluation_set"] == (None if "evaluation__holdout" in off else "embedded, split test")


def test_wrong_gold_answers_are_noticed_once_also_after_a_resumption(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(data.read_text().replace('"answer": "', '"answer": "9'))
    options = {"training__total_steps": 8, "evaluation__at_start": False, "evaluation__at_end": False}
    run(wrong, tmp_path / "run", **options)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line or "for example" in line]
    assert len(said) == 2
    assert said[0].startswith("prepo: warning: step 4: every reward was 0 for 5 steps in a row")
    assert "has the gold answer '9" in said[1] and "What is" not in said[1] and "\\boxed{" in said[1]
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000008")
    run(wrong, tmp_path / "run", resume=True, **options)
    assert "warning" not in capsys.readouterr().err
