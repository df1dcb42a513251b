"""The examples of docs/rewards.md, taken from the page and run as a reader would."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prepo_cli.main import app
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RewardConfig
from tests.metrics import metrics

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
EXAMPLES = {
    title: dict(BLOCK.findall(text))
    for title, text in re.findall(r"### Example: (.+?)\n(.*?)(?=\n###? |\Z)", PAGE, re.DOTALL)
}
SMALL = ["training.prompts_per_step=2", "training.num_generations=2", "training.max_completion_length=8",
         "reporting.figures=false", "rewards.workers=1"]  # fmt: skip
JUDGED: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "compare with a column": (
        ["30 + 12 is 42", "42 or 43", ""],
        [{"right_total": value, "brief": 0.9} for value in (1.0, 0.0, 0.0)],
    ),
    "chat prompts, several tasks": (
        ["Red.", "1, 2", "Octarine"],
        [{"color": 1.0}, {"count": 2 / 3}, {"color": 0.0}],
    ),
    "run the code that the model writes": (
        ["def add(a, b):\n    return a + b", "def add(a, b):\n    return 3", "I can't."],
        [{"passed": 1.0}, {"passed": 0.5}, {"passed": 0.0}],
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(example: dict[str, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in example["json"].splitlines()]


def command_of(example: dict[str, str], folder: Path) -> list[str]:
    """The arguments of the page's command, whose files are written; the data twice, for two prompts."""
    program, *arguments = shlex.split(example["sh"].replace("\\\n", " "))
    assert program == "prepo"
    (folder / example["python"].partition("\n")[0].removeprefix("# ")).write_text(example["python"], encoding="utf-8")
    data = folder / arguments[arguments.index("--dataset") + 1]
    data.write_text(example["json"] * 2, encoding="utf-8")
    return arguments


def values_of(arguments: list[str], flag: str) -> list[str]:
    return [value for given, value in pairwise(arguments) if given == flag]


def test_the_page_has_the_examples_that_are_tested() -> None:
    assert set(EXAMPLES) == set(JUDGED)


@pytest.mark.parametrize("title", JUDGED)
def test_an_example_trains(title: str, folder: Path) -> None:
    arguments = command_of(EXAMPLES[title], folder)
    small = [part for setting in SMALL for part in ("--set", setting)]
    done = CliRunner().invoke(app, [*arguments, "--steps", "1", "--output-dir", "run", *small])
    assert done.exit_code == 0, done.output
    names = {f"rewards/{name}/mean" for name in values_of(arguments, "--reward")}
    assert names & set(metrics(folder / "run")[0])  # of several tasks, the step may hold one alone


@pytest.mark.parametrize("title", JUDGED)
def test_an_example_gives_the_rewards_that_it_promises(title: str, folder: Path) -> None:
    completions, expected = JUDGED[title]
    rewards = values_of(command_of(EXAMPLES[title], folder), "--reward")
    rows = (rows_of(EXAMPLES[title]) * len(completions))[: len(completions)]
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"completion_ids": [[0] * 10] * len(rows)}
    with Judge(RewardConfig(functions=rewards, workers=1)) as judge:
        scores = judge([row["prompt"] for row in rows], completions, columns)
    found = [
        {
            name.rpartition(":")[2]: values_N[i]
            for name, values_N in scores.by_function.items()
            if values_N[i] == values_N[i]
        }
        for i in range(len(rows))
    ]
    assert found == [pytest.approx(each) for each in expected]
