"""The folder of an evaluation: killed while it is overwritten, and among files that are not an evaluation's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prepo_cli.errors import UsageError
from prepo_cli.evaluation.folder import OURS, EvaluationFolder
from prepo_cli.files import atomic_write_json
from prepo_cli.ownership import MARKER, Marker
from tests.killing import kill_after


def write_done(path: Path, mark: str) -> EvaluationFolder:
    folder = EvaluationFolder(path, mark)
    folder.open(overwrite=False)
    for file in (folder.samples, folder.config):
        file.write_text("")
    atomic_write_json(folder.summary, {"fingerprint": mark})
    return folder


def content(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("deleted", range(5))
def test_a_kill_while_overwriting_leaves_a_folder_that_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    write_done(tmp_path, "old")
    (tmp_path / "notes.txt").write_text("mine")
    new = EvaluationFolder(tmp_path, "new")
    kill_after(deleted, monkeypatch)
    if deleted < 4:  # the marker of the chunks, and three files
        with pytest.raises(KeyboardInterrupt):
            new.open(overwrite=True)
        monkeypatch.undo()
    assert new.open(overwrite=True) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "notes.txt", "partial"]


def test_a_finished_evaluation_is_read_also_from_an_older_prepo(tmp_path: Path) -> None:
    write_done(tmp_path, "mark")
    assert EvaluationFolder(tmp_path, "mark").open(overwrite=False) == {"fingerprint": "mark"}
    (tmp_path / MARKER).unlink()
    before = content(tmp_path)
    assert EvaluationFolder(tmp_path, "mark").open(overwrite=False) == {"fingerprint": "mark"}
    with pytest.raises(
        UsageError, match="was not written by prepo, or by an older version; move it, or choose another"
    ):
        EvaluationFolder(tmp_path, "mark").open(overwrite=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        *(lambda path, name=name: (path / name.rstrip("/")).write_text("mine") for name in OURS),
        lambda path: (path / "samples.parquet").mkdir(),
        lambda path: (path / "partial").mkdir(),
        lambda path: Marker("run", ("config.yaml",)).write(path),
        lambda path: (path / MARKER).write_text("{"),
        lambda path: (path / "config.yaml").symlink_to("nowhere"),
        lambda path: (Marker("evaluation", OURS).write(path), (path / "samples.parquet").mkdir()),
    ],
)
def test_what_is_not_ours_is_refused_and_untouched(
    tmp_path: Path, make: Callable[[Path], object], overwrite: bool
) -> None:
    make(tmp_path)
    before, names = content(tmp_path), sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"choose another|move them"):
        EvaluationFolder(tmp_path, "mark").open(overwrite)
    assert (content(tmp_path), sorted(tmp_path.iterdir())) == (before, names)
