"""Two processes on one output: the second is refused, whatever it is asked to do, and the first ends as if alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prepo_cli.main import app
from prepo_cli.ownership import LOCK, MARKER
from tests.metrics import timeless

ROOT = Path(__file__).parents[2]
SETS = [
    f"--set={setting}"
    for setting in (
        "training.prompts_per_step=2", "training.num_generations=2", "training.max_completion_length=16",
        "training.save_steps=1", "evaluation.at_start=false", "evaluation.at_end=false", "reporting.figures=false",
    )
]  # fmt: skip
TRAIN = ["train", "--recipe", "random", "--steps", "6", *SETS]


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not happened():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)


def is_held(lock: Path, process: subprocess.Popen[bytes]) -> bool:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return bool(json.loads(lock.read_text())["pid"] == process.pid)
    return False


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def test_start_resume_and_overwrite_of_a_run_that_is_training(tmp_path: Path) -> None:
    """While it is stopped, so that it can't end before the others have been refused; then killed, and resumed."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    started = [*TRAIN, "--output-dir", str(run)]
    for first in ([], ["--resume"], ["--overwrite"]):
        command = [sys.executable, "-m", "prepo_cli", *started, *first]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: is_held(run / LOCK, process) and (run / "config.yaml").exists(), process)  # noqa: B023
            process.send_signal(signal.SIGSTOP)
            before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            for second in ([], ["--resume"], ["--overwrite"], ["--overwrite", "--break-lock"]):
                line = refused(*started, *second)
                assert f"is in use by process {process.pid} on " in line or "already holds a run" in line, line
            assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
            process.send_signal(signal.SIGCONT)
            if first != ["--overwrite"]:
                wait_for((run / "checkpoints" / "step-000002").exists, process)
                process.kill()
        finally:
            process.send_signal(signal.SIGCONT)
        process.wait()
    assert process.returncode == 0
    assert not (run / LOCK).exists()
    assert CliRunner().invoke(app, [*TRAIN, "--output-dir", str(alone)]).exit_code == 0
    assert timeless(run) == timeless(alone)


@pytest.mark.parametrize("command", ["score-ppl", "score-passrate", "eval", "compare"])
def test_other_outputs_are_in_use_too(tmp_path: Path, command: str) -> None:
    """Held by a real process with the command's own lock file."""
    dataset = tmp_path / "d.jsonl"
    dataset.write_text(json.dumps({"question": "What is 1 + 1?", "answer": "2"}) + "\n")
    folder, output = tmp_path / "out", tmp_path / "scored.jsonl"
    folder.mkdir()
    arguments, lock = {
        "score-ppl": (["score-ppl", str(dataset), "--output", str(output)], tmp_path / f".scored.jsonl{LOCK}"),
        "score-passrate": (
            ["score-passrate", str(dataset), "--output", str(output)],
            tmp_path / f".scored.jsonl{LOCK}",
        ),
        "eval": (["eval", "--dataset", str(dataset), "--output-dir", str(folder)], folder / LOCK),
        "compare": (
            ["compare", "--recipes", "random", *SETS, "--steps", "1", "--output-dir", str(folder)],
            folder / LOCK,
        ),
    }[command]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        from prepo_cli.lock import locked

        with locked(lock, lock):
            os.write(writing, b"held")
            signal.pause()
    try:
        assert os.read(reading, 4) == b"held"
        assert f"is in use by process {pid} on " in refused(*arguments)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    assert not output.exists() and not (folder / MARKER).exists()
