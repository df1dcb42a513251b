"""`prepo show` on folders written by the code that writes real ones, on older ones, and on hostile text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.evaluation.results import Evaluation
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.main import app, main
from prepo_cli.ownership import Marker
from prepo_cli.reporting import shown_completions
from prepo_cli.reporting.run_folder import RunFolder

HOSTILE = "\x1b[2J[red]forged[/red]\nprompt p9\r\n\u202egnorw"
CHAT = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}])


def rollouts(step: int, **changes: Any) -> dict[str, Sequence[Any]]:
    """Two groups of two: all right, and one wrong that was cut off."""
    return {
        "prompt_id": [f"s{step}-a", f"s{step}-a", "every", "every"],
        "group": [0, 0, 1, 1],
        "prompt": [CHAT, CHAT, "2 + 2?", "2 + 2?"],
        "gold": ["2", "2", '["4", "four"]', '["4", "four"]'],
        "text": ["\\boxed{2}", "\\boxed{2}", "\\boxed{4}", f"It may be {HOSTILE}"],
        "reward": [1.0, 1.0, 1.5, 0.0],
        "reward_math": [1.0, 1.0, 1.0, 0.0],
        "reward_mine.py:short": [None, None, 0.5, None],
        "correct": [True, True, True, False],
        "advantage": [0.0, 0.0, 0.7, -0.7],
        "weight": [1.0, 1.0, 1.0, 0.0],
        "entropy": [0.1, 0.1, 0.2, 0.3],
        "length": [4, 4, 4, 1200],
        "truncated": [False, False, False, True],
        "fate": ["filtered", "filtered", "trained", "masked"],
    } | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "run")
    folder.rollouts.mkdir(parents=True)
    Marker("run").write(folder.path)
    for step in (0, 5, 9):
        folder.write_rollouts(step, rollouts(step))
    return folder.path


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = EvaluationFolder(tmp_path / "eval", "mark")
    folder.open(overwrite=False)
    for number in range(3):
        correct_PK = np.array([[True, number != 1]])
        part = Evaluation(
            prompt_ids=[f"p{number}"],
            sources=[None],
            correct_PK=correct_PK,
            rewards_PK=correct_PK.astype(float),
            by_function={"math": correct_PK.astype(float), "own": np.array([[np.nan, 0.5]])},
            answers_PK=[["1", None]],
            lengths_PK=np.array([[3, 4]]),
            truncated_PK=np.array([[False, True]]),
            completions=[[f"first of {number}", f"second of {number}"]],
            prompts=[f"question {number}"],
            golds=[f"gold {number}"],
            seconds=1.0,
        )
        folder.write_part(number, part)
    folder.finish(EvalConfig(k=2, output_dir=str(tmp_path / "eval")), 3, {"fingerprint": "mark"})
    return folder.path


def shown(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["show", *map(str, arguments)])


def found(*arguments: object) -> dict[str, Any]:
    result = shown(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def refused(*arguments: object) -> str:
    with redirect_stderr(io.StringIO()) as error, pytest.raises(SystemExit) as end:
        main(["show", *map(str, arguments)])
    assert end.value.code == 2
    (line,) = error.getvalue().splitlines()
    return line


def test_the_latest_step_by_default_and_any_other_by_its_number(run: Path) -> None:
    latest = found(run)
    assert (latest["step"], latest["matched"], len(latest["completions"])) == (9, 4, 4)
    assert found(run, "--step", 0)["completions"][0]["prompt_id"] == "s0-a"
    assert "has no step 3; choose one from 0 to 9" in refused(run, "--step", 3)


def test_a_prompt_is_shown_from_the_latest_step_that_has_it(run: Path) -> None:
    assert found(run, "--prompt", "every")["step"] == 9
    early = found(run, "--prompt", "s5-a")
    assert (early["step"], early["matched"]) == (5, 2)
    assert "has no completion of prompt 's5-b'; for prompt ids run: prepo show" in refused(run, "--prompt", "s5-b")
    assert "step 9 of" in refused(run, "--prompt", "s5-a", "--step", 9)
    assert "no wrong completion of prompt 's5-a'" in refused(run, "--prompt", "s5-a", "--wrong")


def test_wrong_ones_alone_and_a_limit(run: Path) -> None:
    wrong = found(run, "--wrong")
    assert [row["text"] for row in wrong["completions"]] == [f"It may be {HOSTILE}"]
    some = found(run, "--limit", 3)
    assert (some["matched"], [row["group"] for row in some["completions"]]) == (4, [0, 0, 1])
    assert "3 of 4 completions" in shown(run, "--limit", 3).stdout


def test_json_has_all_that_was_recorded(run: Path) -> None:
    row = found(run)["completions"][2]
    assert row["rewards"] == {"math": 1.0, "mine.py:short": 0.5}
    wanted = {key: values[2] for key, values in rollouts(9).items() if not key.startswith("reward_")}
    assert {key: row[key] for key in wanted} == wanted
    assert row["source"] is None and row["sample"] is None


def test_a_person_reads_prompt_gold_answer_rewards_and_fate(run: Path) -> None:
    lines = shown(run).stdout.splitlines()
    assert lines[0] == f"step 9 of {run}: 4 completions"
    assert lines[2:6] == ["prompt s9-a", "    system: Be brief.", "    user: 1 + 1?", "gold answer: 2"]
    assert lines.count("prompt every") == 1
    fact = "correct | reward 1.500 (math 1.000, mine.py:short 0.500) | answer 4 | advantage 0.700 | weight 1.000"
    assert f"{fact} | entropy 0.200 | 4 tokens | kept" in lines
    assert any(
        line.endswith("1,200 tokens, truncated | kept, but masked: it reached the length limit") for line in lines
    )
    assert any("mine.py:short n/a" in line and "no boxed answer" in line for line in lines)


def test_hostile_text_is_inert_and_can_not_pass_for_a_heading(run: Path) -> None:
    printed = shown(run, "--wrong").stdout
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert "    It may be \\x1b[2J[red]forged[/red]\n    prompt p9\n    \\u202egnorw\n" in printed
    assert "prompt p9" not in printed.splitlines()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_lines_fit_a_terminal(run: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    RunFolder(run).write_rollouts(11, rollouts(11, text=["word " * 400] * 4))
    shown_completions.print_completions(shown_completions.find(run, step=None, prompt=None, wrong=False, limit=9))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("    word") for line in lines) >= 4 * 2000 // width


def test_samples_of_an_evaluation(evaluation: Path) -> None:
    samples = found(evaluation)
    assert (samples["step"], samples["matched"]) == (None, 6)
    assert [row["text"] for row in samples["completions"]][:3] == ["first of 0", "second of 0", "first of 1"]
    (row,) = found(evaluation, "--wrong")["completions"]
    assert (row["prompt_id"], row["prompt"], row["gold"], row["sample"]) == ("p1", "question 1", "gold 1", 1)
    assert row["rewards"] == {"math": 0.0, "own": 0.5}
    assert found(evaluation)["completions"][0]["rewards"] == {"math": 1.0, "own": None}
    assert [row["text"] for row in found(evaluation, "--prompt", "p2")["completions"]] == ["first of 2", "second of 2"]
    assert [row["text"] for row in found(evaluation, "--limit", 5)["completions"]][-1] == "first of 2"
    assert shown(evaluation).stdout.splitlines()[:4] == [
        f"{evaluation}: 6 completions",
        "",
        "prompt p0",
        "    question 0",
    ]
    assert "is an evaluation, which has no steps" in refused(evaluation, "--step", 1)


@pytest.mark.parametrize("lacking", [("gold",), ("prompt", "gold", "reward_math", "reward_mine.py:short", "weight")])
def test_files_of_older_versions_are_read(run: Path, lacking: Sequence[str]) -> None:
    columns: Mapping[str, Sequence[Any]] = {k: v for k, v in rollouts(9).items() if k not in lacking}
    RunFolder(run).write_rollouts(12, columns)
    row = found(run)["completions"][0]
    assert {row[name] for name in lacking if not name.startswith("reward_")} == {None}
    assert "gold answer: none" in shown(run).stdout


def test_no_wrong_ones(run: Path) -> None:
    RunFolder(run).write_rollouts(12, rollouts(12, correct=[True] * 4))
    result = shown(run, "--wrong")
    assert (result.exit_code, result.stdout) == (0, f"step 12 of {run}: no matching completions\n")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: folder.rmdir(), "no such folder"),
        (lambda folder: None, "is neither a run nor an evaluation"),
        (lambda folder: (folder / "rollouts").mkdir(), "is neither a run nor an evaluation"),
        (lambda folder: Marker("run").write(folder), "has no completions: no step has finished yet, or reporting.log_"),
        (lambda folder: Marker("evaluation").write(folder), "is unfinished; run its prepo eval command again"),
        (lambda folder: (folder / "samples.parquet").write_bytes(b"PAR1"), "can't read"),
        (lambda folder: (folder / "samples.parquet").mkdir(), "is neither"),
        (lambda folder: pq.write_table(pa.table({"a": [1]}), folder / "samples.parquet"), "can't read"),
        (
            lambda folder: pq.write_table(
                pa.table({"prompt_id": ["a"], "correct": [True], "text": ["t"]}), folder / "samples.parquet"
            ),
            "no column reward",
        ),
    ],
)
def test_what_can_not_be_shown_is_one_line(tmp_path: Path, make: Callable[[Path], object], line: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    assert line in refused(folder)
