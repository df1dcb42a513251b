"""One process against two, in every layout of the policy: the same run; and starts for real from the command line."""

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

from prepo_cli.distributed.processes import Processes
from prepo_cli.errors import UsageError
from prepo_cli.manifest import verify
from prepo_cli.sections import TrainingConfig
from tests.metrics import metrics
from tests.models import save_model
from tests.training.launching import (
    CHUNK,
    RECIPES,
    ROOT,
    SMALL,
    assert_same_run,
    command,
    interrupted,
    launch,
    needs_deepspeed,
    prompts,
    replay,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Folder of a finished run of a recipe in a layout; each is done once."""

    @cache
    def finished(recipe: str, layout: str) -> Path:
        folder = tmp_path_factory.mktemp(recipe) / layout
        return replay(folder, layout, RECIPES[recipe], chunk_elements=CHUNK if recipe == "steady" else None)

    return finished


@pytest.mark.parametrize(
    ("recipe", "layout"),
    [
        ("prepo", "nodes"),
        ("prepo", "sharded"),
        pytest.param("prepo", "zero2", marks=needs_deepspeed),
        *[(recipe, layout) for recipe in ("greso-e3", "adapters") for layout in ("two", "sharded")],
        pytest.param("steady", "zero3", marks=needs_deepspeed),
        pytest.param("adapters", "zero3", marks=needs_deepspeed),
    ],
)
def test_two_processes_do_the_run_of_one(recipe: str, layout: str, runs: Callable[[str, str], Path]) -> None:
    one = runs(recipe, "one")
    assert len(metrics(one)) == 5
    assert any(abs(line["loss"]) > 1e-3 for line in metrics(one))
    assert recipe != "adapters" or metrics(one)[-1]["kl"] > 1e-6
    assert_same_run(one, runs(recipe, layout))


@pytest.mark.parametrize(
    ("recipe", "before", "after"),
    [
        ("greso-e3", "one", "sharded"),
        pytest.param("greso-e3", "sharded", "zero1", marks=needs_deepspeed),
        ("greso-e3", "two", "one"),
        pytest.param("steady", "zero3", "two", marks=needs_deepspeed),
    ],
)
def test_a_checkpoint_resumes_in_another_layout(
    recipe: str, before: str, after: str, runs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    started = interrupted(runs(recipe, before), tmp_path / "run", after=2)
    replay(started, after, RECIPES[recipe], resume=True)
    assert_same_run(runs(recipe, "one"), started)


def test_all_processes_resume_from_the_newest_whole_checkpoint(
    runs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = interrupted(runs("adapters", "one"), tmp_path / "run", after=3)
    adapters = run / "checkpoints" / "step-000003" / "model" / "adapter_model.safetensors"
    content = adapters.read_bytes()
    adapters.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    replay(run, "two", RECIPES["adapters"], resume=True)
    assert_same_run(runs("adapters", "one"), run)
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert saved == ["damaged-step-000003", *(f"step-{step:06d}" for step in range(1, 6))]
    verify(run / "final")


def test_a_full_reference_is_sharded_too(tmp_path: Path) -> None:
    sets = ["recipe=random", "training.beta=0.1", "model.gradient_checkpointing=true"]
    sets += ["training.learning_rate=6e-5"]  # rounding grows with the KL, which runs away to 250 at 1e-3, to 5 at 2e-4
    one = replay(tmp_path / "one", "one", sets)
    assert metrics(one)[-1]["kl"] > 0.1
    assert_same_run(one, replay(tmp_path / "two", "sharded", sets))


@pytest.mark.parametrize("sets", [[], ["training.fsdp=true"]], ids=["two", "sharded"])
def test_two_processes_from_the_command_line(sets: list[str], tmp_path: Path) -> None:
    """Rollouts from the real engine, evaluation before and after, tied embeddings, fewer prompts than processes."""
    model = save_model("qwen2", tmp_path / "model")
    more = [part for item in ["training.prompts_per_step=3", "training.total_steps=2", *sets,
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


def test_own_code_in_two_processes(tmp_path: Path) -> None:
    """A selector and a reward from files, on own data of which a share is held out: the prompts of one process."""
    own = tmp_path / "mine.py"
    own.write_text(
        "from strategies import Selector, register\n"
        "\n"
        "\n"
        "@register('last-first')\n"
        "class LastFirst(Selector):\n"
        "    def select(self, n, source, ctx):\n"
        "        return sorted(source.take(5 * n), key=lambda prompt: -prompt.index)[:n]\n"
        "\n"
        "\n"
        "def even(completions, **columns):\n"
        "    return [float(len(completion) % 2 == 0) for completion in completions]\n"
    )
    rows = [{"prompt": f"{n} + {n} = ?", "answer": str(2 * n)} for n in range(200)]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_model("qwen2", tmp_path / "model")
    sets = [item for item in SMALL if not item.startswith("evaluation.")]
    sets += ["training.total_steps=2", "evaluation.num_samples=2", "evaluation.limit=4"]
    mine = ["--dataset", str(data), "--selector", f"{own}:LastFirst", "--reward", f"{own}:even",
            *(part for item in sets for part in ("--set", item))]  # fmt: skip
    for processes in (1, 2):
        folder = ["--model", str(model), "--output-dir", str(tmp_path / f"run{processes}")]
        done = launch(["-m", "prepo_cli", "train", *folder, *mine], processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("are held out for evaluation") == 1
    one, two = (prompts(tmp_path / f"run{processes}") for processes in (1, 2))
    assert one == two
    assert {reward for step in one for _, reward, _ in step} == {0.0, 1.0}


def test_a_request_for_sharding_that_was_not_honored_is_refused(tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path / "model")
    done = launch(command(tmp_path / "run", model), 2, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert done.returncode != 0
    assert "does not shard; remove that setting and use training.fsdp=true" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_layout_that_prepo_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(UsageError, match="MEGATRON_LM is not supported; configure accelerate for DDP, FSDP version 2"):
        Processes(TrainingConfig())


def test_sharding_one_process_is_refused(tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path / "model")
    done = launch(command(tmp_path / "run", model, "--set", "training.fsdp=true"), 1)
    assert done.returncode == 2
    assert "training.fsdp=true needs several processes but only one was started" in done.stderr


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
