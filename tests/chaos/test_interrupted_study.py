"""A study that is interrupted and one of whose runs is killed ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from typer.testing import CliRunner

from prepo_cli.config import resolve
from prepo_cli.machine import cores
from prepo_cli.main import app
from prepo_cli.training.train import train
from tests.comparison.test_launch import ROOT, SMALL, command
from tests.metrics import timeless

ROLLOUTS = 112


@contextmanager
def one_thread() -> Iterator[None]:
    """As the study's processes have on two cores; the number of threads changes the last bits of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def test_an_interrupted_study_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """One run killed and one interrupted on their way, then continued by the same command."""
    study = tmp_path / "study"
    process = subprocess.Popen(command(study, ROLLOUTS), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for name in ("random", "prepo"):
        while not any(study.glob(f"{name}-seed0/checkpoints/step-*")):
            assert process.poll() is None
            time.sleep(0.05)
        if name == "random":
            runs = {" ".join(run.cmdline()): run for run in psutil.Process(process.pid).children()}
            next(run for line, run in runs.items() if "random-seed0.yaml" in line).kill()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command to resume" in errors
    assert not list(study.glob("*/summary.json"))

    subprocess.run(command(study, ROLLOUTS), cwd=ROOT, check=True, capture_output=True)
    for recipe in ("random", "prepo"):
        with one_thread():
            train(resolve(flags=SMALL | {"recipe": recipe, "training.max_rollouts": ROLLOUTS,
                                         "output_dir": str(tmp_path / recipe)}))  # fmt: skip
        assert len(timeless(study / f"{recipe}-seed0")) == ROLLOUTS / 16
        assert timeless(study / f"{recipe}-seed0") == timeless(tmp_path / recipe)

    before = {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")}
    result = CliRunner().invoke(app, command(study, ROLLOUTS)[3:])
    assert {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")} == before
    found = json.loads(result.stdout)
    assert [recipe["name"] for recipe in found["recipes"]] == ["random", "prepo"]
    assert "One seed supports no claim" in found["verdict"][0]
    assert (study / "page.html").is_file()
