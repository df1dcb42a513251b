"""`prepo train`, `eval` and `score-ppl` with vLLM from the command line: in process, and with a server that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.metrics import metrics
from tests.training.launching import launch

pytest.importorskip("vllm", reason="needs vLLM: pip install 'prepo[vllm]'")

from prepo_cli.config import ASSETS
from tests.vllm.servers import VllmServer

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("served") / "Small-1M"
    folder.symlink_to(ASSETS / "model")
    running = VllmServer(folder, 512, log=folder.parent / "server.log")
    try:
        running.start()
        yield running
    finally:
        running.kill()


def test_a_server_killed_in_the_middle_of_a_step_costs_nothing(server: VllmServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["training.total_steps=4", "training.prompts_per_step=64", "evaluation.at_start=false"]
    settings += [f"engine.vllm_server_base_url={server.url}", f"model.model_name_or_path={server.folder}",
                 "data.dataset_name=embedded", "training.max_completion_length=96"]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command(run, *settings, engine="vllm-server"), cwd=ROOT, stderr=said,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        while not ((run / "metrics.jsonl").is_file() and metrics(run)) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        server.kill()
        time.sleep(1.0)
        assert process.poll() is None
        server.start()
        code = process.wait(timeout=240)
    assert code == 0, (tmp_path / "said").read_text()[-2000:]
    lines = metrics(run)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["sampling/logp_difference_max"] < 1e-3 for line in lines)
    assert [line["cost/rollouts_total"] for line in lines] == [256, 512, 768, 1024]


def test_a_run_whose_server_stays_down_ends_with_one_line_and_resumes(server: VllmServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["training.total_steps=12", f"engine.vllm_server_base_url={server.url}",
                "engine.vllm_server_timeout_s=20", "evaluation.dataset_name=null", "data.dataset_name=embedded",
                f"model.model_name_or_path={server.folder}", "training.max_completion_length=96"]  # fmt: skip
    arguments = command(run, *settings, engine="vllm-server")
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(arguments, cwd=ROOT, stderr=said, stdout=subprocess.DEVNULL)
        while not ((run / "metrics.jsonl").is_file() and len(metrics(run)) > 1) and process.poll() is None:
            time.sleep(0.05)
        server.kill()
        code = process.wait(timeout=120)
    last = (tmp_path / "said").read_text().strip().splitlines()[-1]
    assert code == 1
    assert server.url in last
    assert "--resume" in last
    done = len(metrics(run))
    server.start()
    again = finish([*arguments, "--set", "training.total_steps=12", "--resume"])
    assert again.returncode == 0, again.stderr[-2000:]
    assert [line["step"] for line in metrics(run)] == list(range(12))
    assert done < 12
