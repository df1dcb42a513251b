"""Atomic files and resumable chunks, also with the process killed at every step of a write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prepo_cli.errors import RunError, UsageError
from prepo_cli.files import Chunks, append_line, atomic_path, atomic_write, atomic_write_json, read_lines
from tests.killing import kill_after

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def table(*values: float) -> pa.Table:
    return pa.table({"x": list(values), "y": [0] * len(values)})


def test_text_json_and_writers_that_want_a_path_or_a_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.txt", "é\n")
    atomic_write_json(tmp_path / "a.json", {"kl": float("nan"), "steps": (1, 2)})
    with atomic_path(tmp_path / "a.parquet") as temporary:
        pq.write_table(table(1.5), temporary)
    with atomic_path(tmp_path / "a.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, x=np.arange(3))
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"kl": None, "steps": [1, 2]}
    assert pq.read_table(tmp_path / "a.parquet")["x"].to_pylist() == [1.5]
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
    assert names(tmp_path) == ["a.json", "a.npz", "a.parquet", "a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the ne")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_the_temporary_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        events.append(f"replace {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    atomic_write(tmp_path / "a.txt", "text")
    assert events == ["fsync .partial-a.txt", "replace a.txt", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_in_the_middle_of_a_write_keeps_the_old_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from prepo_cli.files import atomic_write\n"
        f"{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_write(pathlib.Path(sys.argv[1]), 'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    atomic_write(path, "newer")
    assert (path.read_text(), names(tmp_path)) == ("newer", ["a.txt"])


def test_lines_up_to_an_incomplete_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for step in range(3):
        append_line(path, {"step": step, "kl": float("inf")})
    path.write_text(path.read_text()[:-5])
    assert read_lines(path) == [{"step": 0, "kl": None}, {"step": 1, "kl": None}]
    assert read_lines(tmp_path / "none.jsonl") == []
    with pytest.raises(RunError, match="continue with --resume"):
        append_line(tmp_path / "no" / "a.jsonl", {})


def test_chunks_are_found_again_by_the_same_job_only(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "partial"
    first = Chunks(folder, "mark")
    assert first.owner() is None
    first.open()
    first.write(3, table(1.0, 2.0))
    again = Chunks(folder, "mark")
    again.open()
    assert again.owner() == "mark"
    assert [number for number in range(5) if number in again] == [3]
    assert again.read(3).equals(table(1.0, 2.0))
    assert again.read(3, ["x"]).column_names == ["x"]
    other = Chunks(folder, "other")
    assert (other.owner(), 3 in other) == ("mark", True)
    other.open()
    assert (other.owner(), 3 in other) == ("other", False)
    other.delete()
    other.delete()
    assert names(tmp_path / "job") == []


def test_what_a_kill_leaves_while_starting_or_writing_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".partial-fingerprint").write_text("ma")
    chunks = Chunks(tmp_path, "mark")
    assert chunks.owner() is None
    chunks.open()
    (tmp_path / ".partial-chunk-000000.parquet").write_bytes(b"PAR1")
    assert 0 not in chunks
    chunks.write(0, table(1.0))
    assert chunks.read(0).equals(table(1.0))
    assert names(tmp_path) == ["chunk-000000.parquet", "fingerprint"]


@pytest.mark.parametrize("act", [Chunks.owner, Chunks.open])
def test_a_strangers_folder_is_left_alone(tmp_path: Path, act: Callable[[Chunks], None]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that prepo did not write"):
        act(Chunks(tmp_path, "mark"))
    assert names(tmp_path) == ["notes.txt"]


def test_chunks_half_deleted_by_a_kill_are_still_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(tmp_path / "partial", "old")
    chunks.open()
    for number in range(3):
        chunks.write(number, table(float(number)))
    kill_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        chunks.delete()
    monkeypatch.undo()
    assert chunks.owner() == "old"
    fresh = Chunks(tmp_path / "partial", "new")
    fresh.open()
    assert [number for number in range(3) if number in fresh] == []
