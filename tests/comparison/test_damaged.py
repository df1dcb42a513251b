"""Run folders with a damaged file: `prepo compare` names it in one line, and ends with exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prepo_cli.comparison.analysis import compare
from prepo_cli.comparison.groups import sample_groups
from prepo_cli.comparison.rollouts import sample_rollouts
from prepo_cli.comparison.runs import read_run
from prepo_cli.errors import UsageError
from prepo_cli.main import app
from tests.comparison.test_runs import SUMMARY, write_evaluation, write_run

RUN_FILES = ("config.yaml", "summary.json", "metrics.jsonl", "evaluations.jsonl", "rollouts/step_000001.parquet")
EVALUATION_FILES = ("config.yaml", "summary.json", "samples.parquet")
ROLLOUTS = {
    "group": [0, 0, 1, 1], "prompt_id": list("aabb"), "prompt": ["1 + 1?"] * 4, "text": ["2"] * 4,
    "reward": [1.0, 0.0] * 2, "advantage": [0.5, -0.5] * 2, "weight": [1.0] * 4, "length": [1] * 4,
    "fate": ["trained"] * 4, "correct": [True, False] * 2, "ppl": [2.0] * 4,
}  # fmt: skip
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: content.rindex(b":")] if b":" in content else content[:99],
    "emptied": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 8,
    "zeros": lambda content: b"\0" * len(content),
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"7\n",
    "nested": lambda content: b"[" * 99_999,
}
HARMLESS = {("evaluations.jsonl", "emptied")}
"""What can't be told from a run that was not evaluated."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run", summary=SUMMARY | {"steps": 4})
    (folder / "rollouts").mkdir()
    pq.write_table(pa.table(ROLLOUTS), folder / "rollouts" / "step_000001.parquet")
    return folder


def read(folder: Path) -> None:
    """What `prepo compare` reads of a run."""
    comparison = compare([read_run(folder)])
    sample_groups(comparison.runs)
    sample_rollouts(comparison.recipes, comparison.runs)


def assert_named(folder: Path, file: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read(folder)
    (line,) = str(refusal.value).splitlines()
    assert file in line


def test_undamaged_ones_are_read(run: Path, tmp_path: Path) -> None:
    read(run)
    read(write_evaluation(tmp_path / "eval", [[1, 0], [1, 1]]))


@pytest.mark.parametrize("file", RUN_FILES[:4])
def test_the_command_says_it_in_one_line(run: Path, file: str) -> None:
    (run / file).write_text("garbage")
    result = CliRunner().invoke(app, ["compare", str(run), "--output-dir", str(run.parent / "out")])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("prepo: ") and file in line
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", RUN_FILES)
def test_a_damaged_file_of_a_run(run: Path, file: str, damage: str) -> None:
    if (file, damage) in HARMLESS:
        return
    path = run / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert_named(run, file)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", EVALUATION_FILES)
def test_a_damaged_file_of_an_evaluation(tmp_path: Path, file: str, damage: str) -> None:
    folder = write_evaluation(tmp_path / "eval", [[1, 0], [1, 1]])
    path = folder / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert_named(folder, file)


WRONG: tuple[Any, ...] = ("text", [1], {"a": 1}, None, True, float("nan"))


@pytest.mark.parametrize("key", ["recipe", "strategies", "seed", "metric", "cost", "steps"])
def test_a_value_of_the_wrong_type_in_a_summary(run: Path, key: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    for wrong in WRONG:
        if isinstance(wrong, type(summary[key])) or (key == "steps" and wrong is None):
            continue
        (run / "summary.json").write_text(json.dumps(summary | {key: wrong}))
        with pytest.raises(UsageError, match=r"summary\.json"):
            read_run(run)
    if key != "steps":
        (run / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != key}))
        with pytest.raises(UsageError, match=r"summary\.json: (no |lacks )"):
            read_run(run)


@pytest.mark.parametrize("key", ["step", "avg@4", "rollouts_total", "train_seconds", "prompt_ids", "per_prompt"])
def test_a_value_of_the_wrong_type_in_an_evaluation(run: Path, key: str) -> None:
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    for wrong in WRONG:
        if wrong is None and key == "train_seconds":
            continue
        damaged = [lines[0], lines[1] | {key: wrong}, lines[2]]
        (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in damaged))
        with pytest.raises(UsageError, match=r"evaluations\.jsonl:2: "):
            read_run(run)


def test_accuracies_of_other_prompts_are_counted(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    lines[1]["per_prompt"].append(1.0)
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match=r"evaluations\.jsonl:2: per_prompt is not one number for each of 2 prompts"):
        read_run(run)


def test_lost_steps_are_named(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UsageError, match=r"metrics\.jsonl has only 3 of 4 steps"):
        read_run(run)
    (run / "metrics.jsonl").write_text("".join([lines[0], *lines[2:]]))  # mended by a resumed run
    assert read_run(run).steps == 3


@pytest.mark.parametrize("section", ["training", "evaluation", "rewards", "data", "strategies"])
def test_a_section_that_is_none(run: Path, section: str) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for wrong in ("text", [1], 7, None):
        (run / "config.yaml").write_text(yaml.safe_dump(config | {section: wrong}))
        with pytest.raises(UsageError, match=rf"config\.yaml: {section} is not a section"):
            read_run(run)


@pytest.mark.parametrize("column", ["group", "correct", "fate", "text", "reward", "length", "prompt_id"])
def test_a_column_of_rollouts_of_another_type(run: Path, column: str) -> None:
    for values in (["x"] * 4, [None] * 4, [[1]] * 4, [{"a": 1}] * 4):
        table = pa.table(ROLLOUTS | {column: values})
        pq.write_table(table, run / "rollouts" / "step_000001.parquet")
        with suppress(UsageError):
            read(run)


@pytest.mark.parametrize("name", ["trainer_state.json", "verl.jsonl"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_logs_of_others(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    good = b'{"log_history": [{"step": 1, "reward": 0.5}], "data": {}, "step": 1}\n'
    (folder / name).write_bytes(DAMAGE[damage](good))
    assert_named(folder, "log")


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "data", "reward"]), inner),
    max_leaves=5,
)
STATE = st.fixed_dictionaries({"log_history": st.lists(ANY | st.dictionaries(st.sampled_from(
    ["step", "reward", "num_tokens", "step_time", "eval_reward", "rewards/x"]), ANY), max_size=3) | ANY})  # fmt: skip
RUN = st.dictionaries(st.sampled_from(["fingerprint", "k", "seed", "model", *SUMMARY]), ANY)


@given(STATE, RUN, st.lists(ANY, max_size=3))
def test_whatever_is_in_the_files_a_run_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, state: Any, summary: Any, lines: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, content in (("trainer_state.json", state), ("summary.json", SUMMARY | summary)):
        (folder / name).write_text(json.dumps(content))
        for log in ("metrics.jsonl", "evaluations.jsonl"):
            (folder / log).write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            read_run(folder)
        except UsageError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    shutil.rmtree(folder)
