"""`prepo train` from the command line with a vLLM server that dies."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.metrics import metrics

pytest.importorskip("vllm", reason="needs vLLM: pip install 'prepo[vllm]'")

from prepo_cli.config import ASSETS
from tests.vllm.servers import VllmServer
from tests.vllm.test_train import ROOT, command, finish


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("served") / "Small-1M"
    folder.symlink_to(ASSETS / "model")
    running = VllmServer(folder, 512, log=folder.parent / "server.log", one_process=True)
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
