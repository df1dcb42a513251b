"""Trackers: what is sent to them, when, and what happens when one fails."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.reporting.tracker_backends import TrackedRun, TrackerError
from prepo_cli.reporting.trackers import Trackers, check_trackers, evaluation_metrics, scalars
from prepo_cli.sections import RunConfig

EVALUATION = {
    "step": 0,
    "name": "test",
    "avg@16": {"value": 0.5, "low": 0.4, "high": 0.6},
    "prompts": 10,
    "by_source": {"gsm8k": {"prompts": 4, "avg@16": {"value": 0.7, "low": 0.6, "high": 0.8}}},
    "prompt_ids": ["a"],
    "per_prompt": [0.5],
}


def configuration(*trackers: str, **reporting: Any) -> RunConfig:
    return resolve(flags={"reporting.report_to": list(trackers)} | {f"reporting.{k}": v for k, v in reporting.items()})


class Recorder:
    """A tracker that records its calls and can fail at one step; it prints, as libraries do."""

    def __init__(self, run: TrackedRun, fails_at: int | None = None) -> None:
        self.run, self.fails_at = run, fails_at
        self.note = "in memory"
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.images: list[tuple[int, str, bytes]] = []
        self.tables: list[tuple[int, str, dict[str, list[Any]]]] = []
        self.closed: list[bool] = []
        print("noise of a library")

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise TrackerError("the network is down")
        self.rows.append((step, dict(values)))

    def log_image(self, name: str, picture: Path, step: int) -> None:
        if step == self.fails_at:
            raise TrackerError("the network is down")
        self.images.append((step, name, picture.read_bytes()))

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        if step == self.fails_at:
            raise TrackerError("the network is down")
        self.tables.append((step, name, {key: list(values) for key, values in columns.items()}))

    def close(self, failed: bool) -> None:
        self.closed.append(failed)


class Backends(dict[str, Any]):
    """Starts recorders under two names and keeps them."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.started: dict[str, Recorder] = {}
        super().__init__({name: self._backend(name, fails_at) for name in ("tensorboard", "wandb")})

    def _backend(self, name: str, fails_at: int | None) -> Any:
        def start(run: TrackedRun) -> Recorder:
            self.started[name] = Recorder(run, fails_at if name == "wandb" else None)
            return self.started[name]

        return start


def test_only_finite_numbers_are_sent() -> None:
    metrics = {
        "step": 3, "reward": 0.5, "n": 7, "flag": True, "numpy": np.float32(0.25), "count": np.int64(4),
        "mask": np.bool_(True), "nan": math.nan, "inf": -math.inf, "none": None, "text": "x", "list": [1],
    }  # fmt: skip
    assert scalars(metrics) == {"reward": 0.5, "n": 7, "flag": 1, "numpy": 0.25, "count": 4, "mask": 1}
    assert all(type(value) is float for value in scalars(metrics).values())


def test_an_evaluation_is_flat() -> None:
    assert scalars(evaluation_metrics(EVALUATION)) == {
        "eval/avg@16": 0.5,
        "eval/avg@16_low": 0.4,
        "eval/avg@16_high": 0.6,
        "eval/prompts": 10,
        "eval/by_source/gsm8k/prompts": 4,
        "eval/by_source/gsm8k/avg@16": 0.7,
        "eval/by_source/gsm8k/avg@16_low": 0.6,
        "eval/by_source/gsm8k/avg@16_high": 0.8,
    }


def test_every_tracker_gets_every_step_and_nothing_goes_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backends = Backends()
    config = configuration("tensorboard", "wandb", "wandb", project="study", run_name="first")
    with Trackers(config, tmp_path, 0, backends) as trackers:
        trackers.log_evaluation(EVALUATION, 0)
        trackers.log({"step": 0, "reward": 0.5}, 0)
        trackers.log({"step": 1, "reward": math.nan}, 1)
    for recorder in backends.started.values():
        assert [step for step, _ in recorder.rows] == [0, 0]
        assert recorder.rows[1][1] == {"reward": 0.5}
        assert recorder.closed == [False]
        assert (recorder.run.project, recorder.run.name) == ("study", "first")
        assert recorder.run.config["training"]["total_steps"] == config.training.total_steps
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("noise of a library") == 2
    assert "prepo: wandb: in memory" in err


def test_the_run_is_named_after_its_folder(tmp_path: Path) -> None:
    backends = Backends()
    Trackers(configuration("wandb"), tmp_path, 0, backends).close()
    assert backends.started["wandb"].run.name == tmp_path.name


def test_a_failing_tracker_is_reported_once_and_disabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backends = Backends(fails_at=1)
    with Trackers(configuration("wandb", "tensorboard"), tmp_path, 0, backends) as trackers:
        for step in range(4):
            trackers.log({"reward": 0.1 * step}, step)
    assert [step for step, _ in backends.started["wandb"].rows] == [0]
    assert [step for step, _ in backends.started["tensorboard"].rows] == [0, 1, 2, 3]
    said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert said == [
        "prepo: wandb failed and is disabled for the rest of the run: the network is down; training continues"
    ]


def test_a_tracker_that_fails_to_start_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: TrackedRun) -> Recorder:
        raise TrackerError("no permission")

    backends = Backends()
    backends["wandb"] = start
    with Trackers(configuration("wandb", "tensorboard"), tmp_path, 0, backends) as trackers:
        trackers.log({"reward": 1.0}, 0)
    assert backends.started["tensorboard"].rows == [(0, {"reward": 1.0})]
    assert "wandb failed and is disabled for the rest of the run: no permission" in capsys.readouterr().err


def test_our_own_bugs_are_not_hidden(tmp_path: Path) -> None:
    backends = Backends()
    with Trackers(configuration("wandb"), tmp_path, 0, backends) as trackers:
        backends.started["wandb"].rows = None
        with pytest.raises(AttributeError):
            trackers.log({"reward": 1.0}, 0)


def test_trackers_are_told_when_a_run_ends_early(tmp_path: Path) -> None:
    backends = Backends()

    def cut_short() -> None:
        with Trackers(configuration("wandb"), tmp_path, 0, backends):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert backends.started["wandb"].closed == [True]


def test_a_resumed_run_sends_no_earlier_steps(tmp_path: Path) -> None:
    lines = [EVALUATION | {"step": step} for step in (0, 2, 4)]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    backends = Backends()
    with Trackers(configuration("wandb"), tmp_path, 4, backends) as trackers:
        for step in range(2, 6):
            trackers.log({"reward": float(step)}, step)
    rows = backends.started["wandb"].rows
    assert [step for step, _ in rows] == [4, 4, 5]
    assert rows[0][1]["eval/avg@16"] == 0.5, "the evaluation at the checkpoint"
    assert rows[1][1] == {"reward": 4.0}


ROLLOUTS = {"text": [f"rollout {i}" for i in range(15)], "reward": [float(i) for i in range(15)]}


def test_a_few_completions_are_sent_every_tenth_step(tmp_path: Path) -> None:
    backends = Backends()
    with Trackers(configuration("tensorboard", "wandb"), tmp_path, 0, backends) as trackers:
        for step in range(25):
            trackers.log_completions(ROLLOUTS, step)
        trackers.log_completions({"text": [], "reward": []}, 30)
    for recorder in backends.started.values():
        assert [(step, name) for step, name, _ in recorder.tables] == [(s, "completions") for s in (0, 10, 20, 30)]
        assert recorder.tables[1][2] == {
            "text": [f"rollout {i}" for i in range(0, 15, 2)], "reward": [float(i) for i in range(0, 15, 2)]
        }  # fmt: skip
        assert recorder.tables[-1][2] == {"text": [], "reward": []}


@pytest.mark.parametrize(("every", "first", "sent"), [(None, 0, []), (3, 4, [6]), (1, 5, [5, 6])])
def test_completions_are_sent_as_often_as_set_and_not_again_after_resuming(
    tmp_path: Path, every: int | None, first: int, sent: list[int]
) -> None:
    backends, config = Backends(), configuration("wandb")
    config.reporting.completions_steps = every
    with Trackers(config, tmp_path, first, backends) as trackers:
        for step in range(7):
            trackers.log_completions(ROLLOUTS, step)
    assert [step for step, *_ in backends.started["wandb"].tables] == sent


def test_a_figure_is_drawn_once_and_only_for_a_tracker(tmp_path: Path) -> None:
    picture, drawn = tmp_path / "learning_curve.png", []

    def draw() -> Path | None:
        drawn.append(1)
        picture.write_bytes(b"PNG")
        return picture

    with Trackers(configuration(), tmp_path, 0, Backends()) as trackers:
        trackers.log_figure(draw, 3)
    assert drawn == []
    backends = Backends()
    with Trackers(configuration("tensorboard", "wandb"), tmp_path, 0, backends) as trackers:
        trackers.log_figure(draw, 3)
        trackers.log_figure(lambda: None, 4)
    assert drawn == [1]
    assert [recorder.images for recorder in backends.started.values()] == [[(3, "learning_curve", b"PNG")]] * 2


@pytest.mark.parametrize("call", ["log_completions", "log_figure"])
def test_a_tracker_that_fails_on_media_is_disabled(
    tmp_path: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "learning_curve.png"
    picture.touch()
    backends = Backends(fails_at=10)
    with Trackers(configuration("wandb", "tensorboard"), tmp_path, 0, backends) as trackers:
        if call == "log_figure":
            trackers.log_figure(lambda: picture, 10)
        else:
            trackers.log_completions(ROLLOUTS, 10)
        trackers.log({"reward": 1.0}, 11)
    assert backends.started["wandb"].rows == []
    assert backends.started["tensorboard"].rows == [(11, {"reward": 1.0})]
    assert capsys.readouterr().err.count("wandb failed and is disabled for the rest of the run") == 1


def test_what_lies_in_a_trackers_folder_is_not_deleted(tmp_path: Path) -> None:
    left = tmp_path / "tensorboard" / "mine"
    left.parent.mkdir()
    left.touch()
    for step in (0, 3):
        Trackers(configuration(), tmp_path, step, Backends()).close()
        assert left.exists()


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)])
def test_a_missing_package_is_reported_before_anything_starts(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name in the working directory, which the library itself creates, is not the package."""
    monkeypatch.setattr("prepo_cli.reporting.trackers.find_spec", lambda name: spec)
    with pytest.raises(UsageError) as raised:
        check_trackers(configuration("wandb"))
    assert str(raised.value) == "reporting.report_to: wandb is not installed; run: pip install 'prepo[wandb]'"
    check_trackers(configuration())
