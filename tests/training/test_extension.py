"""Runs that are resumed with another length: what they equal, what is said, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import read_yaml, resolve
from prepo_cli.errors import UsageError
from prepo_cli.training.costs import Costs
from prepo_cli.training.extension import refuse_limits, what_changes
from prepo_cli.training.progress import Progress
from prepo_cli.training.train import train
from tests.metrics import metrics, timeless

SMALL = [
    "training.prompts_per_step=4",
    "training.num_generations=4",
    "training.max_completion_length=24",
    "training.save_steps=10",
    "evaluation.limit=4",
    "evaluation.num_samples=2",
    "evaluation.eval_steps=2",
    "reporting.figures=false",
]
STATEFUL = ["strategies.filter=nonzero-variance", "training.max_rounds=2", "strategies.selector=mopps"]


def run(folder: Path, *sets: str, resume: bool = False) -> dict[str, Any]:
    summary = train(resolve(sets=[*SMALL, f"output_dir={folder}", *sets]), resume=resume)
    assert summary is not None
    return summary


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


def evaluated(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [(line["step"], line["avg@2"]["value"]) for line in map(json.loads, lines)]


def unfinished(finished: Path, folder: Path) -> Path:
    """A copy of a run as a kill leaves it right after its last checkpoint."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "final")
    (folder / "summary.json").unlink()
    lines = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (folder / "evaluations.jsonl").write_text("".join(lines[:-1]))
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps whose strategies don't depend on its length."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    run(folder, *STATEFUL, "training.total_steps=2")
    return folder


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps with every schedule that depends on its length."""
    folder = tmp_path_factory.mktemp("runs") / "scheduled"
    run(folder, *SCHEDULED, "training.total_steps=2")
    return folder


SCHEDULED = ["strategies.selector=ppl-schedule", "strategies.temperature_schedule=entropy-target",
             "training.lr_scheduler_type=cosine", "training.warmup_steps=0"]  # fmt: skip


def test_an_extended_run_is_the_longer_run_where_nothing_depends_on_the_length(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extended = tmp_path / "extended"
    shutil.copytree(short, extended)
    summary = run(extended, *STATEFUL, "training.total_steps=4", resume=True)
    assert "training.total_steps 2 -> 4): progress jumps from 100.0% to 50.0%; nothing in this run depends on it" in (
        " ".join(capsys.readouterr().err.split())
    )
    run(tmp_path / "long", *STATEFUL, "training.total_steps=4")
    assert timeless(extended) == timeless(tmp_path / "long")
    assert evaluated(extended) == evaluated(tmp_path / "long")
    assert weights(extended) == weights(tmp_path / "long")
    assert summary["steps"] == 4
    assert json.loads((extended / "summary.json").read_text())["steps"] == 4
    assert read_yaml(extended / "config.yaml")["training"]["total_steps"] == 4
    assert (extended / "checkpoints" / "step-000004").is_dir()


def test_a_finished_run_extends_like_an_interrupted_one(
    scheduled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished, killed = tmp_path / "finished", unfinished(scheduled, tmp_path / "killed")
    shutil.copytree(scheduled, finished)
    for folder in (finished, killed):
        run(folder, *SCHEDULED, "training.total_steps=4", resume=True)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "a different length" in line]
        assert line.endswith(
            "progress jumps from 100.0% to 50.0%, and with it the learning rate (cosine); selector ppl-schedule; "
            "temperature-schedule entropy-target; learning rate 0 -> 5e-05"
        )
    assert timeless(finished) == timeless(killed)
    assert evaluated(finished) == evaluated(killed)
    assert [step for step, _ in evaluated(finished)] == [0, 2, 4]
    assert weights(finished) == weights(killed)
    lines = metrics(finished)
    assert [line["selector/window_start"] for line in lines] == [0, 8, 8, 12]  # of 16 ranks: 0, 1/2 and 2/4, 3/4
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-4, 5e-5, 5e-5, 1e-4 * 0.146446609])


def test_an_extension_that_is_killed_is_unfinished_and_resumes_without_the_flag(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prepo_cli.training import train as module

    folder = tmp_path / "run"
    shutil.copytree(short, folder)
    monkeypatch.setattr(module, "train_loop", lambda *inputs: None)  # as if stopped before the first step
    with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
        run(folder, *STATEFUL, "training.total_steps=3", resume=True)
    assert not (folder / "summary.json").exists()
    assert weights(folder) == weights(short)
    monkeypatch.undo()
    saved = resolve([folder / "config.yaml"], {"output_dir": str(folder)})
    summary = train(saved, resume=True)
    assert summary is not None and summary["steps"] == 3


def test_runs_that_end_at_a_cost_extend_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    run(folder, "recipe=random", "training.max_rollouts=20")
    assert len(metrics(folder)) == 2  # 16 a step
    run(folder, "recipe=random", "training.max_rollouts=64", resume=True)
    assert "training.max_rollouts 20 -> 64): progress jumps from 100.0% to 50.0%" in capsys.readouterr().err
    assert [line["cost/rollouts_total"] for line in metrics(folder)] == [16, 32, 48, 64]
    with pytest.raises(UsageError, match="max_rollouts=40 is less than the 64 rollouts"):
        run(folder, "recipe=random", "training.max_rollouts=40", resume=True)


DONE = Progress(50, Costs(rollouts_total=1600, tokens_generated=30_000, tokens_scored=2_000, seconds=99.5))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            {"total_steps": 50},
            {"total_steps": 49},
            "training.total_steps=49 is less than the 50 steps that runs/a has ",
        ),
        (
            {"total_steps": 90},
            {"total_steps": 40},
            "training.total_steps=40 is less than the 50 steps that runs/a has ",
        ),
        ({"max_tokens": 32_000}, {"max_tokens": 31_999}, "less than the 32,000 tokens that"),
        ({"max_seconds": 90}, {"max_seconds": 99}, "less than the 99.5 seconds that"),
        (
            {"total_steps": 50},
            {"total_steps": 50, "max_rollouts": 9000},
            "runs/a has reached training.total_steps=50, so changing training.max_rollouts alone doesn't extend it; "
            "raise that limit too, or remove it with --set training.total_steps=null",
        ),
        ({"max_rollouts": 1500}, {"max_rollouts": 1500, "total_steps": 90}, "has reached training.max_rollouts=1500, "),
        ({"total_steps": 50}, {"total_steps": 50}, None),
        ({"total_steps": 90}, {"total_steps": 50}, None),  # ends here
        ({"total_steps": 50}, {"max_rollouts": 1601}, None),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    before: dict[str, float], now: dict[str, float], message: str | None
) -> None:
    configs = [resolve(flags={f"training.{name}": limit for name, limit in given.items()}) for given in (before, now)]
    if message is None:
        refuse_limits(Path("runs/a"), *configs, DONE)
    else:
        with pytest.raises(UsageError, match=re.escape(message)):
            refuse_limits(Path("runs/a"), *configs, DONE)


def test_the_same_length_needs_no_word() -> None:
    assert what_changes(resolve(), resolve(), DONE) is None


def test_another_kind_of_limit_is_named() -> None:
    before = resolve(flags={"recipe": "grpo"})
    now = resolve(flags={"recipe": "grpo", "training.max_rollouts": 6400})
    assert what_changes(before, now, DONE) == (
        "resuming with a different length (training.total_steps 50 -> none, training.max_rollouts none -> 6,400): "
        "progress jumps from 100.0% to 25.0%; nothing in this run depends on it"
    )
