"""Processes that are killed or fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prepo_cli.evaluation import evaluator
from prepo_cli.machine import cores
from tests.commands.test_score_passrate import ROWS, K, dataset, score
from tests.commands.test_train_and_compare import SMALL
from tests.comparison.test_launch import ROOT, command
from tests.forked import Prepo
from tests.metrics import timeless
from tests.training.test_checkpoint import fake as fake_checkpoint
from tests.training.test_checkpoint import names

__all__ = ["dataset"]  # a fixture


def test_a_run_that_is_killed_resumes_without_repeating_the_flags(tmp_path: Path) -> None:
    """kill -9 halfway, then --resume with the folder alone: later metrics and final weights equal an unbroken run's."""
    unbroken, killed, config = tmp_path / "unbroken", tmp_path / "killed", tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    train = ["train", "--config", str(config), "--steps", "9", "--set", "evaluation.eval_steps=3"]
    with Prepo() as prepo:
        process = prepo.start(*train, "--output-dir", str(killed))
        deadline = time.monotonic() + 120
        while not list((killed / "checkpoints").glob("step-00000[3-6]")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
        assert not (killed / "summary.json").exists()
        assert prepo(*train, "--output-dir", str(unbroken)).code == 0
        resumed = prepo("train", "--resume", "--output-dir", str(killed))
    assert resumed.code == 0, resumed.error
    assert timeless(unbroken) == timeless(killed)
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (unbroken, killed)]
    assert weights[0] == weights[1]


def test_a_run_that_fails_stops_no_other_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "import os\n"
        "from strategies import Selector\n"
        "class Failing(Selector):\n"
        "    '''Fails.'''\n"
        "    def select(self, n, source, ctx):\n"
        "        print(os.environ['OMP_NUM_THREADS'], 'threads', file=open('/dev/stderr', 'a'))\n"
        "        return []\n"
    )
    call = command(tmp_path / "study", 32)
    call[call.index("--recipes") + 1] = "random/selector=failing:Failing,random"
    call[call.index("--jobs") + 1] = "64"
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{tmp_path}"
    done = subprocess.run(call, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr
    assert "'Failing' selected 0 prompts instead of 4" in done.stderr
    share = max(1, cores() // 2)  # of two runs, however many jobs are allowed
    (log,) = (tmp_path / "study" / "logs").glob("*failing*.log")
    assert f"{share} threads\n" in log.read_text()
    assert (tmp_path / "study" / "random-seed0" / "summary.json").is_file()


def test_a_killed_scoring_goes_on_and_writes_the_same_file(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, signal, sys\n"
        "from prepo_cli.evaluation import evaluator\n"
        "from prepo_cli.chunks import Chunks\n"
        "from prepo_cli.main import main\n"
        "evaluator.ROLLOUTS_AT_ONCE = 24\n"
        "write = Chunks.write\n"
        "def kill_at_the_third(self, number, table):\n"
        "    if number == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, number, table)\n"
        "Chunks.write = kill_at_the_third\n"
        "main(sys.argv[1:])\n"
    )
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    command = ["score-passrate", str(dataset), "--k", str(K), "--output", str(killed)]
    done = subprocess.run([sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not killed.exists()
    monkeypatch.setattr(evaluator, "ROLLOUTS_AT_ONCE", 24)
    result = score(dataset, killed)
    assert result.exit_code == 0, result.output
    assert f"resuming: 16 of {ROWS} prompts are already scored" in result.stderr
    assert score(dataset, whole).exit_code == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Processes die before an operation on files, each at a later one, while they save and delete the one before."""
    fake_checkpoint(tmp_path, 1)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from prepo_cli.training.checkpoint import newest\n"
        "from tests.chaos.striking import strike_at\n"
        "from tests.training.test_checkpoint import fake\n"
        "os.fsync = lambda descriptor: None  # slow, and without effect on what a kill leaves\n"
        "folder, status, operation = Path(sys.argv[1]), 1, 0\n"
        "while status:\n"
        "    before, operation = newest(folder), operation + 2\n"
        "    step = int(before.name[5:]) + 1\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        strike_at(operation, [str(folder)])\n"
        "        fake(folder, step, keep=1)\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    print(status, newest(folder).name == f'step-{step:06d}')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          check=True)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 True"
    assert {*lines[:-1]} == {"9 False", "9 True"}  # killed before and after the checkpoint is whole
    assert len(lines) > 20
    assert done.stderr == ""
    assert len(names(tmp_path)) == 1, "what kills left half written or half deleted is gone"
