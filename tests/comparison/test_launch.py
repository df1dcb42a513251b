"""A study is trained, several runs at a time, and goes on after an interrupt and after a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prepo_cli.comparison.launch import environment
from prepo_cli.comparison.plan import parse_recipes, plan
from prepo_cli.comparison.study_display import StudyDisplay, share_done
from tests.metrics import timeless

ROOT = Path(__file__).parents[2]
SMALL = {
    "training.prompts_per_step": 4,
    "training.num_generations": 4,
    "training.max_completion_length": 24,
    "training.save_steps": 1,
    "evaluation.limit": 4,
    "evaluation.num_samples": 2,
    "evaluation.eval_steps": None,
    "reporting.figures": False,
}
SETS = [f"--set={key}={json.dumps(value)}" for key, value in SMALL.items()]


def command(folder: Path, rollouts: int, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "prepo_cli", "compare", "--recipes", "random,prepo", "--jobs", "2", "--max-rollouts",
        str(rollouts), "--output-dir", str(folder), "--json", *SETS, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes interrupted on their way, then continued by the same command."""
    folder = tmp_path_factory.mktemp("study")
    process = subprocess.Popen(command(folder, 96), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not all((folder / f"{name}-seed0" / "checkpoints" / "step-000001").is_dir() for name in ("random", "prepo")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert not list(folder.glob("*/summary.json"))
    subprocess.run(command(folder, 96), cwd=ROOT, check=True, capture_output=True)
    return folder


def test_an_interrupted_study_ends_as_an_uninterrupted_one(study: Path, tmp_path: Path) -> None:
    subprocess.run(command(tmp_path, 96), cwd=ROOT, check=True, capture_output=True)
    for name in ("random-seed0", "prepo-seed0"):
        assert len(timeless(study / name)) == 6
        assert timeless(study / name) == timeless(tmp_path / name)


def test_finished_runs_are_left_alone(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")}
    done = subprocess.run(command(study, 96), cwd=ROOT, check=True, capture_output=True, text=True)
    assert {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")} == before
    found = json.loads(done.stdout)
    assert [recipe["name"] for recipe in found["recipes"]] == ["random", "prepo"]
    assert "With one seed nothing can be claimed" in found["verdict"][0]
    assert (study / "page.html").is_file()


def test_a_run_that_fails_stops_no_other_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "from strategies import Selector\n"
        "class Failing(Selector):\n"
        "    '''Fails.'''\n"
        "    def select(self, n, source, ctx):\n"
        "        return []\n"
    )
    call = command(tmp_path / "study", 32)
    call[call.index("--recipes") + 1] = "random/selector=failing:Failing,random"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr
    assert "'Failing' selected 0 prompts instead of 4" in done.stderr
    assert (tmp_path / "study" / "random-seed0" / "summary.json").is_file()


@pytest.mark.parametrize(("jobs", "devices"), [(1, 4), (2, 4), (4, 4), (3, 8), (8, 3), (2, 0)])
def test_the_machine_is_shared_out(jobs: int, devices: int) -> None:
    names = [f"gpu{number}" for number in range(devices)]
    shares = [environment(slot, jobs, 16, names) for slot in range(jobs)]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {str(16 // jobs)}
    own = [share.get("CUDA_VISIBLE_DEVICES", "").split(",") for share in shares]
    if devices >= jobs:
        taken = [name for share in own for name in share]
        assert len(set(taken)) == len(taken)
        assert {len(share) for share in own} == {devices // jobs}
    elif devices:
        assert all(len(share) == 1 for share in own)
        assert {name for share in own for name in share} == set(names)
    else:
        assert all("CUDA_VISIBLE_DEVICES" not in share for share in shares)


def test_the_display_tells_how_far_each_run_is(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = plan(parse_recipes("random"), [0], tmp_path, flags=SMALL | {"training.max_rollouts": 96})
    assert share_done(runs[0]) == 0
    runs[0].folder.mkdir()
    whole = (study / "random-seed0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (runs[0].folder / "metrics.jsonl").write_text("".join(whole[:3]) + whole[3][:50])  # the last one half written
    assert share_done(runs[0]) == pytest.approx(3 / 6)
    with StudyDisplay(runs, 1) as display:
        display.update({runs[0].folder: 1.0}, [])
    assert "1 runs, 0 of them finished" in capsys.readouterr().err
