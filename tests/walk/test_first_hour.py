"""examples/first_hour.sh in short form: a stranger's first hour, through the installed console script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "first_hour.sh"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and what each command printed, by the command."""
    folder = tmp_path_factory.mktemp("walk") / "first_hour"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "STEPS": "2",
        "LIMIT": "10",
        "COLUMNS": "100",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", str(EXAMPLE), str(folder)],
        env=environment,
        cwd=folder.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    parts = done.stdout.split("\n$ ")[1:]
    return folder, {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def printed(walk: tuple[Path, dict[str, str]], *words: str) -> str:
    """What the one command that contains all these words printed."""
    [text] = [text for command, text in walk[1].items() if all(word in command for word in words)]
    return text


def test_every_command_of_the_walk_prints_something_and_no_traceback(walk: tuple[Path, dict[str, str]]) -> None:
    commands = {command.split()[1] for command in walk[1]}
    assert commands == {"strategies", "config", "train", "show", "watch", "eval", "compare"}
    assert len(walk[1]) == EXAMPLE.read_text().count("\nrun prepo ")
    assert all(text.strip() and "Traceback" not in text for text in walk[1].values())


def test_own_code_is_explained_and_used(walk: tuple[Path, dict[str, str]]) -> None:
    assert "The candidates that come first in the dataset." in printed(walk, "strategies", "my_selectors.py")
    trained = printed(walk, "train --dataset")
    assert "selector my_selectors.py:InFileOrder" in trained
    assert "50 of 1,000 prompts are held out" in trained
    assert "my_rewards.py:brief" in printed(walk, "show", "--limit 2")
    rollouts = printed(walk, "show", "--wrong")
    assert "\nwrong | " in rollouts and "\nright | " not in rollouts


def test_the_run_is_extended(walk: tuple[Path, dict[str, str]]) -> None:
    summary = json.loads((walk[0] / "runs/mine/summary.json").read_text())
    assert summary["steps"] == 4
    assert "4 steps" in printed(walk, "watch")


def test_the_trained_model_answers_what_the_run_held_out_as_the_run_did(walk: tuple[Path, dict[str, str]]) -> None:
    [last] = [line for line in printed(walk, "train --resume").splitlines() if line.startswith("avg@16")]
    [again] = [line for line in printed(walk, "eval --model latest").splitlines() if line.startswith("avg@16")]
    assert again.split(maxsplit=1)[1] in last


def test_two_sets_have_a_row_each_and_a_mean(walk: tuple[Path, dict[str, str]]) -> None:
    for words in (("eval", "--temperature 0"), ("eval", "--k 4", "embedded")):
        lines = printed(walk, *words).splitlines()
        assert sum(line.startswith(("more_sums.jsonl  ", "embedded  ", "mean  ")) for line in lines) == 3


def test_evaluations_and_recipes_are_compared(walk: tuple[Path, dict[str, str]]) -> None:
    assert "\nruns/mine " in printed(walk, "compare evals/before")
    study = printed(walk, "compare --recipes")
    assert "\nprepo " in study and "4/4 runs finished" in study
    assert (walk[0] / "comparison/page.html").stat().st_size > 0
    assert (walk[0] / "study/page.html").stat().st_size > 0
