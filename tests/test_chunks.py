"""Chunks of resumable jobs, also with the process killed while it deletes them, and in folders that are not ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from prepo_cli.chunks import Chunks
from prepo_cli.errors import UsageError
from prepo_cli.ownership import MARKER, Marker
from tests.killing import kill_after


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def table(*values: float) -> pa.Table:
    return pa.table({"x": list(values), "y": [0] * len(values)})


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
    (tmp_path / ".partial-.prepo.json").write_text("ma")
    chunks = Chunks(tmp_path, "mark")
    assert chunks.owner() is None
    chunks.open()
    (tmp_path / ".partial-chunk-000000.parquet").write_bytes(b"PAR1")
    assert 0 not in chunks
    chunks.write(0, table(1.0))
    assert chunks.read(0).equals(table(1.0))
    assert names(tmp_path) == [".prepo.json", "chunk-000000.parquet"]


@pytest.mark.parametrize("act", [Chunks.owner, Chunks.open])
def test_a_strangers_folder_is_left_alone(tmp_path: Path, act: Callable[[Chunks], None]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="contains files that prepo did not write"):
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


@pytest.mark.parametrize("act", [Chunks.owner, Chunks.open, Chunks.delete])
@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_folder_is_left_alone(
    tmp_path: Path, act: Callable[[Chunks], None], make: Callable[[Path], None]
) -> None:
    make(tmp_path / "partial")
    with pytest.raises(UsageError, match="contains files that prepo did not write"):
        act(Chunks(tmp_path / "partial", "mark"))
    assert names(tmp_path) == ["partial"]


def test_the_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    Marker("run", ("*",)).write(tmp_path)
    with pytest.raises(UsageError, match="contains files that prepo did not write"):
        Chunks(tmp_path, "mark").open()
    assert names(tmp_path) == [MARKER]


def test_deleting_spares_what_somebody_put_there(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path / "partial", "mark")
    chunks.open()
    chunks.write(0, table(1.0))
    (tmp_path / "partial" / "notes.txt").write_text("mine")
    chunks.delete()
    assert names(tmp_path / "partial") == [".prepo.json", "notes.txt"]
    chunks.open()
    assert 0 not in chunks
    assert (tmp_path / "partial" / "notes.txt").read_text() == "mine"
