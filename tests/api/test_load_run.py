"""`load_run`: finished runs, gzipped ones, running ones, and damaged ones."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prepo_cli import load_run, resolve
from prepo_cli.config import to_yaml
from prepo_cli.errors import UsageError

STUDY = Path(__file__).parents[2] / "docs" / "study" / "dead-0.8" / "prepo-seed0"
INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}


def run_folder(path: Path, metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> Path:
    (path / "rollouts").mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(resolve(flags={"seed": 3})))
    for name, lines in (("metrics", metrics), ("evaluations", evaluations)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rollouts(path: Path, step: int, **columns: list[Any]) -> None:
    pq.write_table(pa.table(columns), path / "rollouts" / f"step_{step:06d}.parquet")


def zipped_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_a_stored_study_s_run() -> None:
    run = load_run(str(STUDY))
    lines = zipped_lines(STUDY / "metrics.jsonl.gz")
    assert run.metrics.num_rows == len(lines) == run.summary["steps"]
    assert set(run.metrics.column_names) == {name for line in lines for name in line}
    for name in ("step", "reward", "updated", "cost/tokens_generated"):
        assert run.metrics[name].to_pylist() == [line.get(name) for line in lines]
    last = zipped_lines(STUDY / "evaluations.jsonl.gz")[-1]
    shown = run.evaluations.to_pylist()[-1]
    assert [shown["avg@4"], shown["avg@4_low"], shown["avg@4_high"]] == list(last["avg@4"].values())
    assert (shown["step"], shown["prompt_ids"], shown["per_prompt"]) == (
        last["step"], last["prompt_ids"], last["per_prompt"]
    )  # fmt: skip
    assert run.config["recipe"] == "prepo"
    assert run.rollout_steps == []
    assert run.rollouts().num_rows == 0


def test_a_running_run_with_a_torn_line_new_metrics_and_nulls(tmp_path: Path) -> None:
    lines = [{"step": 0, "reward": 0.5}, {"step": 1, "reward": None, "kl": 1}]
    folder = run_folder(tmp_path / "run", lines, [{"step": 0, "avg@2": INTERVAL, "prompt_ids": ["a"]}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    run = load_run(folder)
    assert run.metrics.to_pydict() == {"step": [0, 1], "reward": [0.5, None], "kl": [None, 1]}
    assert run.evaluations.to_pydict() == {
        "step": [0], "avg@2": [0.5], "avg@2_low": [0.25], "avg@2_high": [0.75], "prompt_ids": [["a"]]
    }  # fmt: skip
    assert run.summary == {}
    assert run.config["seed"] == 3


def test_rollouts_of_some_steps_and_of_all_also_of_different_columns(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [], [])
    rollouts(folder, 0, text=["a", "b"], entropy=[None, None])
    rollouts(folder, 10, text=["c"], entropy=[0.5], reward_math=[1.0])
    run = load_run(folder)
    assert run.rollout_steps == [0, 10]
    assert run.rollouts([10]).to_pylist() == [{"step": 10, "text": "c", "entropy": 0.5, "reward_math": 1.0}]
    everything = run.rollouts()
    assert everything["step"].to_pylist() == [0, 0, 10]
    assert everything["entropy"].to_pylist() == [None, None, 0.5]
    assert everything["reward_math"].to_pylist() == [None, None, 1.0]
    with pytest.raises(UsageError, match="has no rollouts for step 3; rollout_steps lists the recorded steps"):
        run.rollouts([0, 3])
    (folder / "rollouts" / "step_000011.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"step_000011\.parquet is damaged"):
        run.rollouts()


def test_no_run_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder; pass the output_dir of a training run"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("k: 4\ndataset_name: aime24\n")  # as `prepo eval` writes it
    with pytest.raises(UsageError, match="is not a run folder; pass the output_dir of a training run"):
        load_run(tmp_path)
    folder = run_folder(tmp_path / "run", [{"step": 0, "reward": 1.0}, {"step": 1, "reward": "much"}], [])
    with pytest.raises(UsageError, match=r"metrics\.jsonl mixes types .* copy it again"):
        load_run(folder)
    (folder / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl:1: not a JSON object"):
        load_run(folder)


def test_columns_are_numbers(tmp_path: Path) -> None:
    lines = [{"step": step, "reward": step / 4, "kl": None if step % 2 else 1.0} for step in range(8)]
    metrics = load_run(run_folder(tmp_path / "run", lines, [])).metrics
    assert metrics.schema.types == [pa.int64(), pa.float64(), pa.float64()]
    assert [math.isnan(value) for value in metrics["kl"].to_numpy()] == [False, True] * 4
