"""Markers: what they list is deleted, nothing else, whatever lies beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli import ownership
from prepo_cli.errors import UsageError
from prepo_cli.manifest import write_manifest
from prepo_cli.ownership import (
    MARKER,
    Marker,
    is_unused,
    numbered,
    read_marker,
    refuse_foreign,
    remove_owned,
    write_unless_edited,
)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def put(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_marker_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_marker(tmp_path) is None
    marker = Marker("run", ("a.json", "b/*.txt"), {"README.md": ["00ff"]}, "mark")
    marker.write(tmp_path)
    assert read_marker(tmp_path) == marker
    assert json.loads((tmp_path / MARKER).read_text()).keys() == {"kind", "prepo", "files", "written", "fingerprint"}
    (tmp_path / "file").touch()
    assert read_marker(tmp_path / "file") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        "\0",
        '{"kind": "run"}',
        '{"kind": "run", "files": 7}',
        '{"kind": "run", "files": [7]}',
        '{"kind": "run", "files": [""]}',
        '{"kind": "run", "files": ["/etc/*"]}',
        '{"kind": "run", "files": ["a/../../*"]}',
        '{"kind": "run", "files": [], "written": {"../x": []}}',
        '{"kind": "run", "files": [], "written": [1]}',
        "[" * 99_999,
    ],
)
def test_a_damaged_marker_owns_nothing(tmp_path: Path, content: str) -> None:
    put(tmp_path / MARKER, content)
    with pytest.raises(UsageError, match=r"\.prepo\.json is damaged, .*; choose another folder"):
        read_marker(tmp_path)


PARTS = st.sampled_from(["a", "b", "step-000001", "step-best", "rollouts", "step_1.parquet", "step_x.parquet", "mine"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS, max_size=12))
def test_only_what_the_marker_lists_is_deleted(tmp_path_factory: pytest.TempPathFactory, paths: set[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for path in sorted(paths):
        if not any((folder / parent).is_file() for parent in Path(path).parents) and not (folder / path).is_dir():
            put(folder / path)
    before = files(folder)
    Marker("run", ("a", "rollouts/step_[0-9]*.parquet")).write(folder)
    remove_owned(folder)
    ours = {"a", "rollouts/step_1.parquet"}
    assert files(folder) == sorted({MARKER} | {path for path in before if path not in ours})


def test_of_a_folder_with_a_manifest_its_files_go_and_others_stay(tmp_path: Path) -> None:
    for name in ("step-000001", "step-000002", "step-best"):
        put(tmp_path / "checkpoints" / name / "model" / "weights", "ours")
        write_manifest(tmp_path / "checkpoints" / name)
    put(tmp_path / "checkpoints" / "step-000001" / "model" / "notes")
    put(tmp_path / "checkpoints" / "step-000003" / "no-manifest")
    Marker("run", ("checkpoints/step-[0-9]*/",)).write(tmp_path)
    remove_owned(tmp_path)
    best = ["model/weights", "prepo-manifest.json"]
    assert files(tmp_path / "checkpoints") == [
        "step-000001/model/notes", "step-000003/no-manifest", *(f"step-best/{name}" for name in best)
    ]  # fmt: skip
    assert not (tmp_path / "checkpoints" / "step-000002").exists()


def test_links_are_deleted_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "weights")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "elsewhere" / "weights")
    Marker("run", ("a", "b")).write(folder)
    remove_owned(folder)
    assert files(tmp_path) == ["elsewhere/weights", f"run/{MARKER}"]


def test_a_linked_folder_keeps_what_its_manifest_lists(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "weights")
    write_manifest(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000001").symlink_to(tmp_path / "elsewhere")
    Marker("run", numbered("checkpoints/step-#/")).write(tmp_path / "run")
    remove_owned(tmp_path / "run")
    assert files(tmp_path / "elsewhere") == ["prepo-manifest.json", "weights"]


def test_of_temporary_names_only_those_of_listed_files_go(tmp_path: Path) -> None:
    for name in (".partial-a", "b/.partial-c_000001", ".partial-folder/x", "b/.partial-c_1", ".partial-mine"):
        put(tmp_path / name)
    Marker("run", ("a", *numbered("b/c_#"), "folder/")).write(tmp_path)
    remove_owned(tmp_path)
    assert files(tmp_path) == [".partial-mine", MARKER, "b/.partial-c_1"]


@pytest.mark.parametrize("name", ["step-00001", "step-000001", "step-999999999", "step-000001-copy2", "step-00000x"])
def test_a_number_is_of_digits_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    found = [path.name for pattern in numbered("step-#") for path in tmp_path.glob(pattern)]
    assert found == ([name] if name in ("step-000001", "step-999999999") else [])


def test_what_is_not_listed_stands_in_the_way(tmp_path: Path) -> None:
    put(tmp_path / "page.html")
    with pytest.raises(
        UsageError, match=r"page\.html was not written by prepo, or by an older version; move it, or leave"
    ):
        refuse_foreign(tmp_path, ("other", "page.html"), "leave")
    Marker("comparison", ("page.html",)).write(tmp_path)
    refuse_foreign(tmp_path, ("other", "page.html"), "leave")
    (tmp_path / "page.html").unlink()
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UsageError, match="not written by prepo"):
        refuse_foreign(tmp_path, ("page.html",), "leave")


def test_a_file_is_ours_until_somebody_edits_it(tmp_path: Path) -> None:
    assert not write_unless_edited(tmp_path, "README.md", "one"), "a folder without a marker is not ours"
    Marker("run").write(tmp_path)
    path = tmp_path / "README.md"
    assert write_unless_edited(tmp_path, "README.md", "one")
    assert write_unless_edited(tmp_path, "README.md", "two")
    path.write_text("one")
    refuse_foreign(tmp_path, ("README.md",), "leave")
    path.write_text("one, edited")
    with pytest.raises(UsageError, match=r"README\.md was changed since prepo wrote it; move it, or leave"):
        refuse_foreign(tmp_path, ("README.md",), "leave")
    assert not write_unless_edited(tmp_path, "README.md", "three")
    remove_owned(tmp_path)
    assert path.read_text() == "one, edited"
    path.write_text("two")
    remove_owned(tmp_path)
    assert not path.exists()


def test_a_kill_before_the_file_is_written_leaves_it_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    Marker("run").write(tmp_path)
    assert write_unless_edited(tmp_path, "README.md", "one")
    monkeypatch.setattr(ownership, "atomic_write", strike)
    with pytest.raises(KeyboardInterrupt):
        write_unless_edited(tmp_path, "README.md", "two")
    monkeypatch.undo()
    refuse_foreign(tmp_path, ("README.md",), "leave")
    assert write_unless_edited(tmp_path, "README.md", "two")
    assert (tmp_path / "README.md").read_text() == "two"


@pytest.mark.parametrize(
    ("make", "unused"),
    [
        (lambda folder: folder.rmdir(), True),
        (lambda folder: None, True),
        (lambda folder: put(folder / ".partial-config.yaml"), True),
        (lambda folder: put(folder / ".prepo.lock"), True),
        (lambda folder: put(folder / ".git"), False),
        (lambda folder: put(folder / "x"), False),
        (lambda folder: os.symlink("nowhere", folder / "x"), False),
    ],
)
def test_what_counts_as_unused(tmp_path: Path, make: Callable[[Path], None], unused: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    assert is_unused(folder) is unused
