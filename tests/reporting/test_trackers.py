"""Trackers: our own logic with fakes, then each installed library, its records read back."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.reporting.tracker_backends import TrackedRun, TrackerError, wandb_mode
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
        self.closed: list[bool] = []
        print("noise of a library")

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise TrackerError("the network is down")
        self.rows.append((step, dict(values)))

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


def test_a_new_run_deletes_the_data_of_an_overwritten_one(tmp_path: Path) -> None:
    left = tmp_path / "tensorboard" / "events.out"
    left.parent.mkdir()
    left.touch()
    Trackers(configuration(), tmp_path, 3, Backends()).close()
    assert left.exists()
    Trackers(configuration(), tmp_path, 0, Backends()).close()
    assert not left.exists()


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


def test_wandb_is_offline_unless_the_user_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine tracker.example login user password none\n")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://tracker.example:8080")
    assert wandb_mode() is None
    (tmp_path / "netrc").write_text("machine")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() is None


SCRIPT = """
import sys
from pathlib import Path
from prepo_cli.config import resolve
from prepo_cli.reporting.trackers import Trackers, check_trackers

name, folder, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = resolve(flags={"reporting.report_to": [name], "seed": 7})
check_trackers(config)
with Trackers(config, folder, first) as trackers:
    if first == 0:
        trackers.log_evaluation({"step": 0, "avg@4": {"value": 0.5, "low": 0.25, "high": 0.75}}, 0)
    for step in range(first, last):
        trackers.log({"step": step, "reward": step + first / 8, "kl": float("nan"), "odd": step % 2 == 1}, step)
"""


def interrupted_and_resumed(library: str, folder: Path) -> None:
    """Log steps 0 to 4, then in a new process, by a run resumed at step 3, steps 3 to 5."""
    assert importlib.util.find_spec(library) is not None
    ours = ("WANDB", "TRACKIO", "HF_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"HF_HUB_OFFLINE": "1", "NETRC": str(folder / "no-netrc"), "OMP_NUM_THREADS": "1"}
    for first, last in ((0, 5), (3, 6)):
        call = [sys.executable, "-c", SCRIPT, library, str(folder), str(first), str(last)]
        done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert "is disabled" not in done.stderr
        assert f"prepo: {library}: " in done.stderr


def test_tensorboard_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="not run: tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted_and_resumed("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"reward", "odd", "eval/avg@4", "eval/avg@4_low", "eval/avg@4_high"}
    assert {event.step: event.value for event in events.Scalars("reward")} == {0: 0, 1: 1, 2: 2, 3: 3.375, 4: 4.375,
                                                                              5: 5.375}  # fmt: skip
    assert len(events.Scalars("reward")) == 6
    assert [event.value for event in events.Scalars("odd")] == [0, 1, 0, 1, 0, 1]
    assert [event.value for event in events.Scalars("eval/avg@4_high")] == [0.75]
    (text,) = events.Tensors("config/text_summary")
    assert b"seed: 7" in text.tensor_proto.string_val[0]


def test_wandb_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="not run: wandb is not installed")
    interrupted_and_resumed("wandb", tmp_path)
    identity = (tmp_path / "wandb" / "id").read_text()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2, "both parts of the run under one id"
    (before, config), (after, _) = (wandb_history(file) for file in files)
    assert before[0] == {"reward": 0.0, "odd": 0.0, "eval/avg@4": 0.5, "eval/avg@4_low": 0.25, "eval/avg@4_high": 0.75}
    assert {step: row["reward"] for step, row in before.items()} == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert {step: row["reward"] for step, row in after.items()} == {3: 3.375, 4: 4.375, 5: 5.375}
    assert config["seed"] == 7


def wandb_history(file: Path) -> tuple[dict[int, dict[str, float]], dict[str, Any]]:
    """Rows by step, and the configuration, of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    rows: dict[int, dict[str, float]] = {}
    config: dict[str, Any] = {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            row = {key: value for key, value in items.items() if not key.startswith("_")}
            rows.setdefault(int(items["_step"]), {}).update(row)
        elif record.WhichOneof("record_type") == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return rows, config


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: a LevelDB log after a header of 7 bytes.

    Its 32 KiB blocks hold fragments: checksum (4 bytes), length (2), type (1: full, 2: first, 3: middle, 4: last).
    """
    block, at, record = 32768, 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_trackio_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="not run: trackio is not installed")
    interrupted_and_resumed("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "prepo.db") as store:
        rows = [(step, json.loads(text)) for step, text in store.execute("SELECT step, metrics FROM metrics")]
        ((config,),) = store.execute("SELECT config FROM configs")
        ((runs,),) = store.execute("SELECT COUNT(DISTINCT run_id) FROM metrics")
    assert runs == 1, "the resumed run continues the same one"
    assert [(step, row["reward"]) for step, row in rows if "reward" in row] == [
        (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5.375)
    ]  # fmt: skip
    assert [row for _, row in rows if "eval/avg@4" in row] == [
        {"eval/avg@4": 0.5, "eval/avg@4_low": 0.25, "eval/avg@4_high": 0.75}
    ]
    assert json.loads(config)["seed"] == 7


FULL_DISK = """
import resource, sys
from pathlib import Path
from prepo_cli.config import resolve
from prepo_cli.reporting.trackers import Trackers

with Trackers(resolve(flags={"reporting.report_to": ["tensorboard"]}), Path(sys.argv[1]), 0) as trackers:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    for step in range(20):
        trackers.log({f"metric{number}": 0.5 for number in range(20)}, step)
print("trained to the end")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are Unix-only")
def test_a_full_disk_disables_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="not run: tensorboard is not installed")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained to the end\n"
    assert done.stderr.count("prepo: tensorboard failed and is disabled for the rest of the run: [Errno 27]") == 1
