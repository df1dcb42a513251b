"""A run that fails or is asked to stop loses no step that it could have saved, and resumes as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import RunError, UsageError
from prepo_cli.training.collect import Collector
from prepo_cli.training.evaluation import TrainingEvaluation
from prepo_cli.training.log import RunLog
from prepo_cli.training.run import Run
from prepo_cli.training.team import Team
from prepo_cli.training.train import train
from tests.metrics import timeless

SETS = [
    "training.total_steps=4",
    "training.prompts_per_step=3",
    "training.num_generations=4",
    "training.max_completion_length=12",
    "training.max_rounds=2",
    "training.save_steps=100",
    "strategies.selector=greso",
    "strategies.budget=e3",
    "strategies.temperature_schedule=entropy-target",
    "evaluation.limit=2",
    "evaluation.num_samples=2",
    "evaluation.eval_steps=2",
    "reporting.figures=false",
    "rewards.functions=[tests.training.rewards:short]",
]


def run(folder: Path, *sets: str, **options: Any) -> Any:
    return train(resolve(sets=[*SETS, f"output_dir={folder}", *sets]), **options)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def content(folder: Path) -> list[Any]:
    """All that a run leaves, without times."""
    final = [path.read_bytes() for path in sorted((folder / "final").iterdir())]
    rollouts = [path.read_bytes() for path in sorted((folder / "rollouts").iterdir())]
    lines = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
    evaluations = [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]
    return [timeless(folder), evaluations, final, rollouts]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescue") / "whole"
    run(folder)
    return folder


def failing(owner: type, name: str, call: int, before: bool, patch: pytest.MonkeyPatch) -> None:
    """The call of that number fails, before it has done its work or after it."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and before:
            raise OSError("it broke")
        result = original(*args, **kwargs)
        if calls[0] == call:
            raise OSError("it broke")
        return result

    patch.setattr(owner, name, fail)


@pytest.mark.parametrize(
    ("owner", "name", "call", "before", "checkpoint"),
    [
        (Collector, "collect", 3, False, "step-000002"),
        (TrainingEvaluation, "run", 2, True, "step-000002"),
        (RunLog, "evaluation", 2, False, "step-000002"),
    ],
)
def test_a_failure_leaves_a_checkpoint_of_the_last_sound_state(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    call: int,
    before: bool,
    checkpoint: str,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing(owner, name, call, before, patch)
        with pytest.raises(OSError, match="it broke"):
            run(folder)
    assert saved(folder) == [checkpoint]
    run(folder, resume=True)
    assert content(folder) == content(uninterrupted)


@pytest.mark.parametrize(
    ("owner", "name", "call", "before"),
    [(Collector, "collect", 1, False), (Team, "step", 3, False), (RunLog, "step", 3, True), (Run, "_save", 1, True)],
)  # fmt: skip
def test_in_the_middle_of_an_update_no_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int, before: bool
) -> None:
    """Nor in the first step, of which nothing is lost, nor after saving itself has failed."""
    failing(owner, name, call, before, monkeypatch)
    with pytest.raises(OSError, match="it broke"):
        run(tmp_path / "run")
    assert saved(tmp_path / "run") == []


def test_a_failure_right_after_a_checkpoint_saves_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(Collector, "collect", 3, True, monkeypatch)
    with pytest.raises(OSError, match="it broke"):
        run(tmp_path / "run", "training.save_steps=2")
    assert saved(tmp_path / "run") == ["step-000002"]


def test_what_cannot_be_saved_does_not_hide_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RunError("the disk is full")

    failing(Collector, "collect", 3, True, monkeypatch)
    monkeypatch.setattr(Team, "save", full)
    with pytest.raises(OSError, match="it broke"):
        run(tmp_path / "run")
    assert "the state before the failure can't be saved: the disk is full" in capsys.readouterr().err
    assert saved(tmp_path / "run") == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_stop_after_the_step_and_save(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A hang-up comes twice, from the kernel and the shell; a scheduler's warning may be repeated."""
    collect = Collector.collect
    before = signal.getsignal(number)

    def ask(self: Collector, *inputs: Any) -> Any:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        return collect(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", ask)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 1;"):
            run(tmp_path / "run")
    assert signal.getsignal(number) == before
    assert saved(tmp_path / "run") == ["step-000001"]
    run(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(uninterrupted)


def test_a_damaged_checkpoint_or_model_is_never_trained_on(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run(folder, "training.save_steps=2", "training.save_total_limit=2")
    assert content(folder) == content(uninterrupted)
    weights = folder / "checkpoints" / "step-000004" / "model" / "model.safetensors"
    content_before = weights.read_bytes()
    weights.write_bytes(content_before[:-1] + bytes([content_before[-1] ^ 1]))
    shutil.rmtree(folder / "final")
    run(folder, "training.save_steps=2", "training.save_total_limit=2", resume=True)
    said = capsys.readouterr().err
    assert "checkpoint step-000004 is damaged: model/model.safetensors: content differs; resuming from step-" in said
    assert content(folder) == content(uninterrupted)
    assert saved(folder) == ["damaged-step-000004", "step-000002", "step-000004"]
    (folder / "final" / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match=r"model .*final is damaged: chat_template.jinja: missing; save it again"):
        run(tmp_path / "next", f"model.model_name_or_path={folder}")
    assert not (tmp_path / "next" / "metrics.jsonl").exists()
