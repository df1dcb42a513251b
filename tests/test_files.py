"""Atomic files and files of lines, also with the process killed at every step of a write."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.chunks import Chunks
from prepo_cli.errors import RunError
from prepo_cli.evaluation.added_columns import WRITERS
from prepo_cli.files import append_line, atomic_path, atomic_write, atomic_write_json, read_lines, readable_lines
from prepo_cli.reporting.figures import canvas

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


def write_png(path: Path) -> None:
    with canvas(path) as axes:
        axes.plot([0, 1])


def write_chunk(path: Path) -> None:
    job = Chunks(path, "mark")
    job.open()
    job.write(0, table(*range(9000)))


def write_rows(path: Path) -> None:
    rows = Dataset.from_dict({"text": ["x" * 50] * 400})
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        WRITERS[path.suffix]([rows, rows], file)


WRITES: dict[str, Callable[[Path], None]] = {
    "text.txt": lambda path: atomic_write(path, "x" * 9000),
    "object.json": lambda path: atomic_write_json(path, {"x": "x" * 9000}),
    "picture.png": write_png,
    "chunks": write_chunk,
    "rows.jsonl": write_rows,
    "rows.csv": write_rows,
    "rows.parquet": write_rows,
}


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """The kernel lets no file grow beyond a limit, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = 400 if name == "rows.parquet" else 2000
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        with pytest.raises(RunError, match=rf"^can't write .*{name}.* \(File too large\); .*: free some space, then"):
            WRITES[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".partial-") or "chunk-" in path.name] == []
    WRITES[name](tmp_path / name)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("room", [0, 1, 60])
def test_of_a_line_that_does_not_fit_nothing_is_left(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, {"step": 0})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
    try:
        with pytest.raises(RunError, match=r"can't write to .*a\.jsonl \(File too large\); free some space, then"):
            append_line(path, {"step": 1, "text": "x" * 99})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_kill_while_the_configuration_is_written_again_keeps_it(tmp_path: Path) -> None:
    """A run that resumes writes its configuration first; each process dies before a later operation on files."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from prepo_cli.config import resolve\n"
        "from prepo_cli.reporting.run_folder import RunFolder\n"
        "from tests.chaos.striking import strike_at\n"
        "folder, operation, status = RunFolder(Path(sys.argv[1])), 0, 1\n"
        "folder.begin(resolve(), resume=False)\n"
        "while status:\n"
        "    operation += 1\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        strike_at(operation, [sys.argv[1]])\n"
        "        folder.begin(resolve(sets=['training.save_steps=7']), resume=True)\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    folder.check(resolve(), resume=True, overwrite=False)\n"
        "    print(status, 'save_steps: 7' in folder.config.read_text())\n"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1:] == ["0 True"], done.stderr
    assert {*lines[:-1]} >= {"9 False"}
    assert len(lines) >= 5


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


def test_lines_without_an_incomplete_last_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for step in range(3):
        append_line(path, {"step": step, "kl": float("inf")})
    path.write_text(path.read_text()[:-5])
    assert readable_lines(path) == ([{"step": 0, "kl": None}, {"step": 1, "kl": None}], [])
    assert read_lines(tmp_path / "none.jsonl") == []
    with pytest.raises(RunError, match="continue with --resume"):
        append_line(tmp_path / "no" / "a.jsonl", {})


DAMAGE = [
    b'{"step": 1, "rew',
    b"\0\0\0",
    b'{"step": "\xff"}',
    b"[1]",
    b"7",
    b"",
    b'{"reward": 1}',
    b'{"step": "1"}',
    b"[" * 9999,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_hides_no_other(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n' + damage + b'\n{"step": 2}\n')
    assert readable_lines(path) == ([{"step": 0}, {"step": 2}], [2])
    path.write_bytes(b'{"step": 0}\n' + damage)
    assert readable_lines(path) == ([{"step": 0}], [])


@given(st.lists(st.one_of(st.integers(0, 9), st.sampled_from(DAMAGE))), st.booleans())
def test_lines_and_damage_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int | bytes], ended: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    written = [line if isinstance(line, bytes) else json.dumps({"step": line}).encode() for line in lines]
    path.write_bytes(b"\n".join(written) + b"\n" * (ended and bool(lines)))
    damaged = [number for number, line in enumerate(lines, 1) if isinstance(line, bytes)]
    if lines and not ended and isinstance(lines[-1], bytes):
        damaged = damaged[:-1]
    assert readable_lines(path) == ([{"step": line} for line in lines if isinstance(line, int)], damaged)
