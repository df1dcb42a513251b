"""`prepo train`, `eval` and `score-ppl` with vLLM from the command line, in process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.metrics import metrics
from tests.training.launching import launch

pytest.importorskip("vllm", reason="needs vLLM: pip install 'prepo[vllm]'")

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "training.total_steps=3",
    "training.prompts_per_step=8",
    "training.num_generations=4",
    "training.save_steps=1",
    "training.learning_rate=1e-4",
    "data.max_prompt_length=96",
    "evaluation.dataset_name=embedded",
    "evaluation.limit=16",
    "evaluation.num_samples=4",
    "evaluation.eval_steps=null",
    "engine.vllm_enforce_eager=true",
]


def command(folder: Path, *sets: str, engine: str = "vllm") -> list[str]:
    items = [part for item in [*SETTINGS, *sets] for part in ("--set", item)]
    return [sys.executable, "-m", "prepo_cli", "train", "--engine", engine, "--output-dir", str(folder), *items]


def finish(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("sets", [[], ["model.use_peft=true", "training.beta=0.05"]], ids=["whole", "lora"])
def test_trains_in_process(sets: list[str], tmp_path: Path) -> None:
    done = finish([*command(tmp_path / "run", *sets), "--json"])
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["steps"] == 3
    for line in metrics(tmp_path / "run"):
        assert line["sampling/logp_difference_max"] < 1e-3
        assert line["sampling/importance_ratio"] == pytest.approx(1, abs=1e-3)
        assert line["sampling/corrected_ratio"] == 0
        assert 0 < line["entropy"] < 7
        assert line["timing_s/sync"] > 0
    assert metrics(tmp_path / "run")[-1]["cost/tokens_scored"] > 0


def test_two_processes_each_with_an_engine(tmp_path: Path) -> None:
    """Sharded, so that every process takes part in gathering the weights."""
    _, *arguments = command(tmp_path / "run", "training.fsdp=true", "recipe=random")
    done = launch([*arguments, "--json"], 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["cost"]["rollouts_total"] == 96
    for line in metrics(tmp_path / "run"):
        assert line["sampling/logp_difference_max"] < 1e-3
        assert line["entropy"] > 0  # measured by the update's own pass
        assert line["cost/tokens_scored"] == 0


def test_evaluates_and_scores_as_the_trainer_does(tmp_path: Path) -> None:
    """Greedy answers are equal, and with them correctness; so are perplexities."""
    values, scored = [], []
    for engine in ("hf", "vllm"):
        shared = ["--engine", engine, "--json", "--set", "engine.vllm_enforce_eager=true"]
        prepo = [sys.executable, "-m", "prepo_cli"]
        done = finish([*prepo, "eval", "--k", "1", "--temperature", "0.01", "--limit", "150", *shared,
                       "--output-dir", str(tmp_path / engine)])  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        values.append(json.loads(done.stdout)["avg@1"]["value"])
        output = tmp_path / f"{engine}.jsonl"
        done = finish([*prepo, "score-ppl", "embedded", "--limit", "200", *shared, "--output", str(output)])
        assert done.returncode == 0, done.stderr[-2000:]
        scored.append([json.loads(line) for line in output.read_text().splitlines()])
    assert values[0] == pytest.approx(values[1], abs=0.02)
    for ours, theirs in zip(*scored, strict=True):
        assert theirs["ppl"] == pytest.approx(ours["ppl"], rel=1e-4)
        assert theirs["ppl_tokens"] == ours["ppl_tokens"]
