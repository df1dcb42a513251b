"""Each installed tracker library: its records read back, after an interruption and on a full disk."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prepo_cli.ownership import Marker, remove_owned
from prepo_cli.reporting.run_folder import OURS
from prepo_cli.reporting.tracker_backends import wandb_mode


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
config = resolve(flags={"reporting.report_to": [name], "reporting.completions_steps": 2, "seed": 7})
check_trackers(config)
with Trackers(config, folder, first) as trackers:
    if first == 0:
        trackers.log_evaluation({"step": 0, "avg@4": {"value": 0.5, "low": 0.25, "high": 0.75}}, 0)
    for step in range(first, last):
        trackers.log({"step": step, "reward": step + first / 8, "kl": float("nan"), "odd": step % 2 == 1}, step)
        trackers.log_completions({"text": ["2*3|6 <b>", "\\\\boxed{7}\\n# x"], "entropy": [None, 0.5]}, step)
    trackers.log_figure(lambda: folder / "curve.png", last)
"""


def interrupted_and_resumed(library: str, folder: Path) -> None:
    """Log steps 0 to 4, then in a new process, by a run resumed at step 3, steps 3 to 5."""
    assert importlib.util.find_spec(library) is not None
    Image.new("RGB", (4, 3), (255, 0, 0)).save(folder / "curve.png")
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
    from tensorboard.plugin_util import markdown_to_safe_html

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
    tables = {event.step: event.tensor_proto.string_val[0] for event in events.Tensors("completions/text_summary")}
    assert sorted(tables) == [0, 2, 4]
    shown = unescape(re.sub(r"<[^>]*>", "\n", markdown_to_safe_html(tables[4]))).split("\n")
    assert [line for line in shown if line] == ["text", "entropy", "2*3|6 <b>", "None", "\\boxed{7}\\n# x", "0.5"]
    pictures = [(event.step, event.width, event.height) for event in events.Images("curve")]
    assert pictures == [(6, 4, 3)], "what was drawn before is replaced"


def test_wandb_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="not run: wandb is not installed")
    interrupted_and_resumed("wandb", tmp_path)
    identity = (tmp_path / "wandb" / "id").read_text()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2, "both parts of the run under one id"
    (before, config), (after, _) = (wandb_history(file) for file in files)
    assert before[0] == {"reward": 0.0, "odd": 0.0, "eval/avg@4": 0.5, "eval/avg@4_low": 0.25, "eval/avg@4_high": 0.75}
    assert {step: row["reward"] for step, row in before.items() if row} == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert {step: row["reward"] for step, row in after.items() if row} == {3: 3.375, 4: 4.375, 5: 5.375}
    assert config["seed"] == 7
    tables = [json.loads(file.read_text()) for file in tmp_path.glob("wandb/*run-*/files/media/table/*.json")]
    assert len(tables) == 4, "those of steps 0, 2 and 4, and the resumed run's of step 4"
    assert all(table["columns"] == ["text", "entropy"] for table in tables)
    assert all(table["data"] == [["2*3|6 <b>", None], ["\\boxed{7}\n# x", 0.5]] for table in tables)
    assert len(list(tmp_path.glob("wandb/*run-*/files/media/images/curve_*.png"))) == 2
    Marker("run", OURS).write(tmp_path)
    remove_owned(tmp_path)
    assert [path.name for path in (tmp_path / "wandb").rglob("*") if path.is_file()] == []


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
            row = {key: value for key, value in items.items() if not key.startswith(("_", "completions/", "curve/"))}
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
    tables = {step: row["completions"] for step, row in rows if "completions" in row}
    assert sorted(tables) == [0, 2, 4]
    assert [row["text"] for row in tables[4]["_value"]] == ["2*3|6 <b>", "\\boxed{7}\n# x"]
    assert len(list(tmp_path.glob("trackio/media/prepo/*/*/*.png"))) == 2
    Marker("run", OURS).write(tmp_path)
    remove_owned(tmp_path)
    assert not (tmp_path / "trackio").exists()


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
