"""A study is trained, several runs at a time, and goes on after a failure; tests/chaos interrupts one."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from prepo_cli.comparison.launch import environment, reason, train_missing
from prepo_cli.comparison.plan import parse_recipes, plan
from prepo_cli.comparison.study_display import StudyDisplay, share_done
from prepo_cli.errors import UsageError
from prepo_cli.main import app

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


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]], torn: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def step_line(step: int) -> dict[str, Any]:
    costs = {"rollouts_total": 16, "tokens_generated": 300, "tokens_scored": 20, "seconds": 0.5}
    return {"step": step, **{f"cost/{name}": value * (step + 1) for name, value in costs.items()}}


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


@pytest.mark.parametrize(
    ("limit", "share"), [("max_rollouts=96", 3 / 6), ("max_tokens=3200", 0.3), ("max_seconds=2.0", 0.75)]
)
def test_the_display_tells_how_far_a_run_is(
    limit: str, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = plan(parse_recipes("random"), [0], tmp_path, sets=[f"training.{limit}"])
    assert share_done(run) == 0
    write_lines(run.folder / "metrics.jsonl", [step_line(step) for step in range(3)], torn='{"step": 3, "cost/ro')
    assert share_done(run) == pytest.approx(share)
    with StudyDisplay([run], 1) as display:
        display.update({run.folder: 1.0}, [])
    assert "1 runs, 0 of them finished" in capsys.readouterr().err


def test_the_live_table_shows_what_is_active_and_its_neighbors(tmp_path: Path) -> None:
    runs = plan(parse_recipes("random"), list(range(40)), tmp_path, flags=SMALL)
    for run in runs[:20]:
        write_lines(run.folder / "metrics.jsonl", [step_line(0)])
        write_lines(run.folder / "evaluations.jsonl", [{"step": 1, "avg@2": {"value": 0.625}}])
        (run.folder / "summary.json").write_text("{}")
    console = Console(file=StringIO(), force_terminal=True, record=True, width=100, height=14)
    with StudyDisplay(runs, 2, console) as display:
        display.update({runs[20].folder: 61.0, runs[21].folder: 3.0}, {runs[2].folder})
    shown = console.export_text()
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines() if line.startswith("random-seed")]
    assert [row[0] for row in rows] == [f"random-seed{seed}" for seed in (2, 17, 18, 19, 20, 21, 22, 23)]
    assert [row[1] for row in rows] == ["failed", *["finished"] * 3, *["active"] * 2, *["waiting"] * 2]
    assert rows[1][2:] == ["100%", "0.625"]
    assert rows[4][2:] == ["0:01:01"]
    assert "20 of 40 runs finished" in shown


def test_why_a_run_failed(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("prepo: step 3\nprepo: no space left\n\n")
    assert reason(1, log) == "no space left"
    assert reason(-signal.SIGKILL, log) == "ended by SIGKILL, possibly out of memory"
    assert reason(-signal.SIGSEGV, log) == "ended by SIGSEGV"
    log.write_text("")
    assert reason(1, log) == "no message"


def test_several_runs_cannot_share_a_server(tmp_path: Path) -> None:
    runs = plan(parse_recipes("random,prepo"), [0], tmp_path, flags={"engine.name": "vllm-server"})
    with pytest.raises(UsageError, match="serves one run's weights; use --jobs 1"):
        train_missing(runs, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "random,dapo", "--baseline", "dappo"], "not among the recipes (did you mean 'dapo'"),
        (["--recipes", "random", "{tmp}/missing"], "no such run folder"),
        (["--recipes", "random", "--output-dir", "{tmp}/file"], "file is a file; choose another folder"),
        (["--steps", "3", "{tmp}"], "settings need --recipes or --ablate"),
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
