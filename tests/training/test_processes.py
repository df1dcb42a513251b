"""One process against two, plain and sharded: the same run; and starts for real from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.models import save_model
from tests.training.launching import (
    RECIPES,
    ROOT,
    assert_same_run,
    command,
    interrupted,
    launch,
    metrics,
    replay,
)

LAUNCHES = {"one": [], "two": [], "sharded": ["training.fsdp=true"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Folder of a finished run of a recipe in a way of launching; each is done once."""

    @cache
    def finished(recipe: str, launched: str) -> Path:
        folder = tmp_path_factory.mktemp(recipe) / launched
        return replay(folder, 1 if launched == "one" else 2, [*RECIPES[recipe], *LAUNCHES[launched]])

    return finished


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("launched", ["two", "sharded"])
def test_two_processes_do_the_run_of_one(recipe: str, launched: str, runs: Callable[[str, str], Path]) -> None:
    one = runs(recipe, "one")
    assert len(metrics(one)) == 5
    assert any(abs(line["loss"]) > 1e-3 for line in metrics(one))
    assert_same_run(one, runs(recipe, launched))


@pytest.mark.parametrize(("before", "after"), [("one", "sharded"), ("sharded", "two"), ("two", "one")])
def test_a_checkpoint_resumes_on_another_number_of_processes(
    before: str, after: str, runs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    started = interrupted(runs("greso-e3", before), tmp_path / "run", after=2)
    replay(started, 1 if after == "one" else 2, [*RECIPES["greso-e3"], *LAUNCHES[after]], resume=True)
    assert_same_run(runs("greso-e3", "one"), started)


def test_kl_lora_and_mini_batches_in_two_processes(tmp_path: Path) -> None:
    sets = ["recipe=random", "model.use_peft=true", "model.lora_r=4", "training.beta=0.1",
            "training.mini_batch_prompts=3", "training.num_iterations=2", "training.learning_rate=2e-4"]  # fmt: skip
    one = replay(tmp_path / "one", 1, sets)
    assert metrics(one)[-1]["kl"] > 1e-6
    for launched in ("two", "sharded"):
        assert_same_run(one, replay(tmp_path / launched, 2, [*sets, *LAUNCHES[launched]]))


def test_a_full_reference_is_sharded_too(tmp_path: Path) -> None:
    sets = ["recipe=random", "training.beta=0.1", "model.gradient_checkpointing=true"]
    one = replay(tmp_path / "one", 1, sets)
    assert_same_run(one, replay(tmp_path / "two", 2, [*sets, "training.fsdp=true"]))


@pytest.mark.parametrize("launched", ["two", "sharded"])
def test_two_processes_from_the_command_line(launched: str, tmp_path: Path) -> None:
    """Rollouts from the real engine, evaluation before and after, tied embeddings, fewer prompts than processes."""
    model = save_model("qwen2", tmp_path / "model")
    more = [part for item in ["training.prompts_per_step=3", "training.total_steps=2", *LAUNCHES[launched],
            "evaluation.dataset_name=embedded", "evaluation.limit=1", "evaluation.num_samples=2"]
            for part in ("--set", item)]  # fmt: skip
    done = launch([*command(tmp_path / "run", model, *more, "--json")], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["steps"] == 2
    assert summary["cost"]["rollouts_total"] == 2 * 3 * 4
    assert "in 2 processes" in done.stderr
    again = launch(["-m", "prepo_cli", "eval", "--model", str(tmp_path / "run"), "--dataset", "embedded",
                    "--limit", "1", "--k", "2", "--output-dir", str(tmp_path / "e")], 1)  # fmt: skip
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("FSDP", "shards nothing; drop that request and set training.fsdp=true"),
        ("MEGATRON_LM", "MEGATRON_LM is not supported; configure accelerate for DDP, FSDP version 2 or DeepSpeed"),
    ],
)
def test_a_request_for_sharding_that_was_not_honoured_is_refused(kind: str, why: str, tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path / "model")
    done = launch(command(tmp_path / "run", model), 2, **{f"ACCELERATE_USE_{kind}": "true", "FSDP_VERSION": "2"})
    assert done.returncode != 0
    assert why in done.stderr
    assert not (tmp_path / "run").exists()


def test_sharding_one_process_is_refused(tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path / "model")
    done = launch(command(tmp_path / "run", model, "--set", "training.fsdp=true"), 1)
    assert done.returncode == 2
    assert "training.fsdp=true shards over several processes and one was started" in done.stderr


def test_bad_input_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path / "model")
    done = launch(command(tmp_path / "run", model, "--dataset", str(tmp_path / "none.jsonl")), 2)
    assert done.returncode != 0
    assert done.stderr.count("no such dataset file") == 1
    ours = done.stderr.split("torch/distributed/elastic")[0]  # what follows is the launcher's own report
    assert "Traceback" not in ours


@pytest.mark.parametrize("command_name", ["eval", "score-ppl"])
def test_other_commands_refuse_a_launcher(command_name: str, tmp_path: Path) -> None:
    arguments = {"eval": ["--output-dir", str(tmp_path / "e")], "score-ppl": ["embedded"]}[command_name]
    done = launch(["-m", "prepo_cli", command_name, *arguments], 1, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "one process" in done.stderr


def test_an_interrupt_saves_in_several_processes(tmp_path: Path) -> None:
    """The main process finishes its step and saves; all end; the run goes on."""
    model = save_model("qwen2", tmp_path / "model")
    run = tmp_path / "run"
    settings = ["--set", "training.total_steps=400", "--set", "training.save_steps=400"]
    front = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*front, *command(run, model, *settings)], cwd=ROOT, env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").is_file() and metrics(run)) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    saved = [path.name for path in (run / "checkpoints").glob("step-*")]
    assert len(saved) == 1, said
    assert int(saved[0].removeprefix("step-")) == len(metrics(run))
