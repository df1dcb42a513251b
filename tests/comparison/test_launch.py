"""A study is trained, several runs at a time, and goes on after an interrupt and after a failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from prepo_cli.comparison.launch import environment, reason, train_missing
from prepo_cli.comparison.plan import parse_recipes, plan
from prepo_cli.comparison.study_display import StudyDisplay, share_done
from prepo_cli.errors import UsageError
from prepo_cli.main import app
from tests.metrics import timeless

ROOT = Path(__file__).parents[2]
ROLLOUTS = 160
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
    """Two recipes, one killed and one interrupted on their way, then continued by the same command."""
    folder = tmp_path_factory.mktemp("study")
    process = subprocess.Popen(command(folder, ROLLOUTS), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for name in ("random", "prepo"):
        while not any(folder.glob(f"{name}-seed0/checkpoints/step-*")):
            assert process.poll() is None
            time.sleep(0.05)
        if name == "random":
            runs = {" ".join(run.cmdline()): run for run in psutil.Process(process.pid).children()}
            next(run for line, run in runs.items() if "random-seed0.yaml" in line).kill()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert not list(folder.glob("*/summary.json"))
    subprocess.run(command(folder, ROLLOUTS), cwd=ROOT, check=True, capture_output=True)
    return folder


def test_an_interrupted_study_ends_as_an_uninterrupted_one(study: Path, tmp_path: Path) -> None:
    subprocess.run(command(tmp_path, ROLLOUTS), cwd=ROOT, check=True, capture_output=True)
    for name in ("random-seed0", "prepo-seed0"):
        assert len(timeless(study / name)) == ROLLOUTS / 16
        assert timeless(study / name) == timeless(tmp_path / name)


def test_finished_runs_are_left_alone(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")}
    done = subprocess.run(command(study, ROLLOUTS), cwd=ROOT, check=True, capture_output=True, text=True)
    assert {path: path.stat().st_mtime_ns for path in study.glob("*/summary.json")} == before
    found = json.loads(done.stdout)
    assert [recipe["name"] for recipe in found["recipes"]] == ["random", "prepo"]
    assert "With one seed nothing can be claimed" in found["verdict"][0]
    assert (study / "page.html").is_file()


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
    share = max(1, len(os.sched_getaffinity(0)) // 2)  # of two runs, however many jobs are allowed
    (log,) = (tmp_path / "study" / "logs").glob("*failing*.log")
    assert f"{share} threads\n" in log.read_text()
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
    runs = plan(parse_recipes("random"), [0], tmp_path, flags=SMALL | {"training.max_rollouts": ROLLOUTS})
    assert share_done(runs[0]) == 0
    runs[0].folder.mkdir()
    whole = (study / "random-seed0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (runs[0].folder / "metrics.jsonl").write_text("".join(whole[:3]) + whole[3][:50])  # the last one half written
    assert share_done(runs[0]) == pytest.approx(3 * 16 / ROLLOUTS)
    with StudyDisplay(runs, 1) as display:
        display.update({runs[0].folder: 1.0}, [])
    assert "1 runs, 0 of them finished" in capsys.readouterr().err


def test_the_live_table_shows_what_is_active_and_its_neighbours(study: Path, tmp_path: Path) -> None:
    runs = plan(parse_recipes("random"), list(range(40)), tmp_path, flags=SMALL)
    for run in runs[:20]:
        shutil.copytree(study / "random-seed0", run.folder, ignore=shutil.ignore_patterns("checkpoints", "final"))
    console = Console(file=StringIO(), force_terminal=True, record=True, width=100, height=14)
    with StudyDisplay(runs, 2, console) as display:
        display.update({runs[20].folder: 61.0, runs[21].folder: 3.0}, {runs[2].folder})
    shown = console.export_text()
    accuracy = json.loads((study / "random-seed0" / "evaluations.jsonl").read_text().splitlines()[-1])["avg@2"]["value"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == [f"random-seed{seed}" for seed in (2, 17, 18, 19, 20, 21, 22, 23)]
    assert [row[1] for row in rows] == ["failed", *["finished"] * 3, *["active"] * 2, *["waiting"] * 2]
    assert rows[1][2:] == ["100%", f"{accuracy:.3f}", ""]
    assert rows[4][4] == "0:01:01"
    assert "20 of 40 runs finished" in shown


def test_why_a_run_failed(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("prepo: step 3\nprepo: no space left\n\n")
    assert reason(1, log) == "no space left"
    assert reason(-signal.SIGKILL, log) == "ended by SIGKILL, which may mean too little memory"
    assert reason(-signal.SIGSEGV, log) == "ended by SIGSEGV"
    log.write_text("")
    assert reason(1, log) == "no message"


def test_several_runs_cannot_share_a_server(tmp_path: Path) -> None:
    runs = plan(parse_recipes("random,prepo"), [0], tmp_path, flags={"engine.name": "vllm-server"})
    with pytest.raises(UsageError, match="holds one run's weights; use --jobs 1"):
        train_missing(runs, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "random,dapo", "--baseline", "dappo"], "not among the recipes, did you mean 'dapo'"),
        (["--recipes", "random", "{tmp}/missing"], "no such run folder"),
        (["--recipes", "random", "--output-dir", "{tmp}/file"], "is a file; choose a folder"),
        (["--steps", "3", "{tmp}"], "settings of training runs need --recipes or --ablate"),
        ([], "nothing to compare"),
        (["--recipes", ","], "no runs to compare"),
    ],
)
def test_what_is_wrong_is_said_before_training(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    words = [word.replace("{tmp}", str(tmp_path)) for word in ["compare", *arguments]]
    folder = [] if "--output-dir" in words else ["--output-dir", str(tmp_path / "study")]
    result = CliRunner().invoke(app, [*words, *folder])
    assert result.exit_code == 2, result.output
    assert message in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
