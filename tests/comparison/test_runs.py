"""Run folders and evaluations as they are read, plain and gzipped, and what is said of those that can't be."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.comparison.jsonl import read_columns, read_objects
from prepo_cli.comparison.recipes import unique_names
from prepo_cli.comparison.runs import read_run, recipe_label
from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.evaluation.results import Evaluation
from prepo_cli.evaluation.settings import EvalConfig
from strategies.strategy_set import SLOT_DEFAULTS
from tests.comparison.made import make_run

ACCURACIES = [[0.5, 0.0], [1.0, 0.25], [1.0, 0.5]]
SUMMARY = {
    "recipe": "greso", "strategies": SLOT_DEFAULTS | {"selector": "greso"}, "seed": 3, "metric": "avg@4",
    "cost": {"rollouts_total": 64, "rollouts_trained": 48, "tokens_generated": 400, "tokens_scored": 80, "seconds": 4},
}  # fmt: skip


def evaluation(step: int, accuracies: Sequence[float]) -> dict[str, Any]:
    return {
        "step": step, "avg@4": {"value": sum(accuracies) / 2, "low": 0, "high": 1}, "rollouts_total": 16 * step,
        "train_seconds": step / 1, "prompt_ids": ["a", "b"], "per_prompt": accuracies,
    }  # fmt: skip


EVALUATIONS = [evaluation(step, accuracies) for step, accuracies in zip((0, 2, 4), ACCURACIES, strict=True)]
METRICS = [
    {"step": i, "reward": i / 4, "updated": i > 0, "kl": None, "cost/tokens_generated": 100 * (i + 1),
     "cost/tokens_scored": 20 * (i + 1)}
    for i in range(4)
]  # fmt: skip


def write_run(
    path: Path,
    evaluations: Sequence[Mapping[str, Any]] = EVALUATIONS,
    metrics: Sequence[Mapping[str, Any]] = METRICS,
    summary: Mapping[str, Any] | None = SUMMARY,
    zipped: bool = False,
) -> Path:
    path.mkdir()
    path.joinpath("config.yaml").write_text(to_yaml(resolve(flags={"recipe": "greso", "seed": 3})))
    for name, lines in (("evaluations.jsonl", evaluations), ("metrics.jsonl", metrics)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if zipped:
            path.joinpath(name + ".gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.joinpath(name).write_text(text)
    if summary is not None:
        path.joinpath("summary.json").write_text(json.dumps(summary, indent=2))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_a_run_folder(tmp_path: Path, zipped: bool) -> None:
    run = read_run(write_run(tmp_path / "greso-3", zipped=zipped))
    assert (run.name, run.recipe, run.seed, run.metric) == ("greso-3", "greso", 3, "avg@4")
    assert (run.source, run.steps, run.prompt_ids) == ("prepo", 4, ("a", "b"))
    assert run.config["strategies"]["selector"] == "greso"
    assert run.evaluations_EP is not None and run.evaluations_EP.tolist() == ACCURACIES
    assert run.evaluated_E is not None and run.evaluated_E.tolist() == [0.25, 0.625, 0.75]
    assert {axis: cost_E.tolist() for axis, cost_E in run.cost_E.items()} == {
        "rollouts": [0, 32, 64], "tokens": [0, 240, 480], "seconds": [0, 2, 4]
    }  # fmt: skip
    assert (run.costs["rollouts"], run.costs["tokens"], run.costs["rollouts_trained"]) == (64, 480, 48)
    assert run.metrics["reward"].tolist() == [0, 0.25, 0.5, 0.75]
    assert run.metrics["updated"].tolist() == [0, 1, 1, 1]
    assert "kl" not in run.metrics


def test_the_lines_own_tokens_win_over_the_metrics(tmp_path: Path) -> None:
    own = [line | {"tokens_total": 7 * line["step"]} for line in EVALUATIONS]
    assert read_run(write_run(tmp_path / "run", own)).cost_E["tokens"].tolist() == [0, 14, 28]


def test_without_metrics_there_are_no_tokens(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", metrics=[]))
    assert set(run.cost_E) == {"rollouts", "seconds"}
    assert (run.steps, run.metrics) == (0, {})


@pytest.mark.parametrize("evaluations", [[], EVALUATIONS[:1]])
def test_what_was_measured_before_training_is_no_result(tmp_path: Path, evaluations: list[Any]) -> None:
    run = read_run(write_run(tmp_path / "run", evaluations))
    assert run.evaluated_E is None and run.evaluations_EP is None


def test_a_log_that_the_summary_tells_of_must_be_there(tmp_path: Path) -> None:
    complete = SUMMARY | {"steps": 4, "after": {"avg@4": {"value": 0.75}}}
    folder = write_run(tmp_path / "run", summary=complete)
    assert read_run(folder).steps == 4
    (folder / "evaluations.jsonl").unlink()
    with pytest.raises(UsageError, match=r"evaluations\.jsonl lacks the evaluation after training; copy it again"):
        read_run(folder)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match=r"metrics\.jsonl has only 0 of 4 steps; copy it again"):
        read_run(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_summary_must_be_copied_again(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text(content)
    with pytest.raises(UsageError, match=r"summary\.json: not a JSON object; copy it again"):
        read_run(folder)


def test_an_unfinished_run_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unfinished; finish it with: prepo train --resume --output-dir .*/run$"):
        read_run(write_run(tmp_path / "run", summary=None))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(UsageError, match="is neither a run nor an evaluation; pass"):
        read_run(tmp_path)
    (tmp_path / "partial").mkdir()
    with pytest.raises(UsageError, match=r"evaluation in .* is unfinished"):
        read_run(tmp_path)


@pytest.mark.parametrize("line", ['{"step": 1, "rew', "[1]", "", "\ufffd"])
@pytest.mark.parametrize("name", ["metrics", "evaluations"])
def test_a_damaged_line_is_named(tmp_path: Path, name: str, line: str) -> None:
    file = write_run(tmp_path / "run") / f"{name}.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(UsageError, match=rf"{name}\.jsonl:2: not a JSON object"):
        read_run(file.parent)


def test_damaged_gzip_and_missing_values_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "zipped", zipped=True)
    file = folder / "metrics.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"metrics\.jsonl\.gz is damaged"):
        read_run(folder)
    incomplete = [EVALUATIONS[0], {k: v for k, v in EVALUATIONS[1].items() if k != "per_prompt"}, EVALUATIONS[2]]
    with pytest.raises(UsageError, match=r"evaluations\.jsonl:2: no per_prompt"):
        read_run(write_run(tmp_path / "incomplete", incomplete))
    changed = [EVALUATIONS[0], EVALUATIONS[1] | {"prompt_ids": ["a", "c"]}, EVALUATIONS[2]]
    with pytest.raises(UsageError, match=r"evaluations\.jsonl:2: different prompts"):
        read_run(write_run(tmp_path / "changed", changed))


def write_evaluation(path: Path, right: Sequence[Sequence[int]], model: str = "embedded") -> Path:
    """The folder of a finished evaluation in two chunks, written by the code that writes real ones."""
    config = EvalConfig(k=len(right[0]), output_dir=str(path), model={"model_name_or_path": model})
    folder = EvaluationFolder(path, "mark")
    folder.open(overwrite=False)
    for number, rows in enumerate((right[:1], right[1:])):
        correct_PK, shape = np.array(rows, dtype=bool), np.shape(rows)
        ids = [f"p{number}{i}" for i in range(len(rows))]
        blank = [[None] * shape[1]] * shape[0]
        part = Evaluation(
            prompt_ids=ids, sources=[None] * len(ids), correct_PK=correct_PK, rewards_PK=correct_PK.astype(float),
            by_function={}, answers_PK=blank, lengths_PK=np.ones(shape, int),
            truncated_PK=np.zeros(shape, bool), completions=[["text"] * shape[1]] * shape[0],
            prompts=["prompt"] * shape[0], golds=["gold"] * shape[0], seconds=1.0,
        )  # fmt: skip
        folder.write_part(number, part)
    folder.finish(config, 2, {"model": model, "seed": 0, "k": config.k, "fingerprint": "mark"})
    return path


def test_an_evaluation_is_a_run_without_training(tmp_path: Path) -> None:
    run = read_run(write_evaluation(tmp_path / "a", [[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]]))
    assert (run.name, run.recipe, run.seed, run.metric, run.source) == ("a", "embedded", 0, "avg@4", "eval")
    assert run.prompt_ids == ("p00", "p10", "p11")
    assert run.evaluations_EP is not None and run.evaluations_EP.tolist() == [[0.5, 1.0, 0.25]]
    assert run.evaluated_E is not None and run.evaluated_E.tolist() == [pytest.approx(7 / 12)]
    assert (run.metrics, run.steps, run.cost_E) == ({}, 0, {})


def test_an_evaluation_without_its_samples_is_refused(tmp_path: Path) -> None:
    (write_evaluation(tmp_path / "a", [[1], [0]]) / "samples.parquet").unlink()
    with pytest.raises(UsageError, match=r"has no samples\.parquet; run"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize(
    ("slots", "label"),
    [
        ({"weighting": "rel-entropy"}, "random + rel-entropy"),
        ({"selector": "greso", "filter": "nonzero-variance"}, "greso"),
        ({"selector": "greso"}, "greso + keep-all"),
        ({"selector": "greso+ppl-schedule:ratio=0.5", "filter": "nonzero-variance"}, "greso+ppl-schedule:ratio=0.5"),
        ({"selector": "bench/oracle.py:Oracle:noise=0.1"}, "Oracle:noise=0.1"),
        ({"selector": "no_such_package.mine:Mine", "budget": "e3"}, "Mine + e3"),
        ({}, "random"),
    ],
)
def test_a_custom_recipe_is_named_by_what_was_chosen(slots: dict[str, str], label: str) -> None:
    assert recipe_label("custom", SLOT_DEFAULTS | slots) == label
    assert recipe_label("dapo", SLOT_DEFAULTS | slots) == "dapo"


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-9, 9), st.text(max_size=2), st.just([1.0]))


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES), max_size=6))
def test_columns_hold_every_number_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "columns.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = read_columns(file)
    for key in "abcd":
        expected = [float(r[key]) if isinstance(r.get(key), int | float) else math.nan for r in rows]
        if all(map(math.isnan, expected)):
            assert key not in columns
        else:
            np.testing.assert_array_equal(columns[key], expected)
    assert read_objects(file) == rows


GOOD = b'{"step": 0, "reward": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b'{"step": 1, "reward": true}', [0.5, 1.0, 0.5]),
        (b'{"step": 1, "reward": "none"}', [0.5, math.nan, 0.5]),
        (b'{"step": 1, "reward": [1]}', [0.5, math.nan, 0.5]),
        (b'{"step": 1, "reward": -Infinity}', [0.5, -math.inf, 0.5]),
        (b'{"step": 1, "reward": 0.25, "reward": 0.75}', [0.5, 0.75, 0.5]),
        (b'{"step": 1, "reward": 1, "note": "caf\xe9 \xc3\xa9 \\ud800"}', [0.5, 1.0, 0.5]),
        (b'{"step": 1, "caf\xe9": 1}', [0.5, math.nan, 0.5]),
        (b'{"step": 1, "note": "' + b"x" * 2**23 + b'"}', [0.5, math.nan, 0.5]),
    ],
)
def test_what_pyarrow_refuses_is_read_all_the_same(tmp_path: Path, line: bytes, kept: list[float]) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(GOOD + line + b"\n" + GOOD)
    columns = read_columns(file)
    np.testing.assert_array_equal(columns["reward"], kept)
    np.testing.assert_array_equal(columns["step"], [0, 1, 0])


def test_a_null_which_crashes_pyarrow_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"null\n" + GOOD)
    with pytest.raises(UsageError, match=r"metrics\.jsonl:1: not a JSON object"):
        read_columns(file)


@pytest.mark.parametrize("line", [GOOD[:-1] * 2, b'{"step": 1,\n"reward": 2}', b"\n", b'{"step": 1} x', b"NaN"])
def test_what_pyarrow_takes_for_lines_is_refused_if_it_is_none(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(UsageError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_columns(file)


def test_a_run_that_is_also_given_through_a_link_counts_once(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to("random-seed0")
    run = make_run(tmp_path / "random-seed0", "random", 0, 0, 4, ())
    assert unique_names([run, replace(run, folder=link)]) == [run]


def test_the_older_name_of_a_recipe_is_shown_as_its_name() -> None:
    assert recipe_label("full", SLOT_DEFAULTS | {"selector": "full"}) == "grpo"
    assert recipe_label("mine", SLOT_DEFAULTS) == "mine"
