"""The folder of an evaluation, killed while it is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.files import atomic_write_json
from tests.killing import kill_after


@pytest.mark.parametrize("deleted", range(3))
def test_a_kill_while_overwriting_leaves_a_folder_that_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    old, new = (EvaluationFolder(tmp_path, mark) for mark in ("old", "new"))
    for path in (old.samples, old.config):
        path.write_text("")
    atomic_write_json(old.summary, {"fingerprint": "old"})
    kill_after(deleted, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        new.open(overwrite=True)
    monkeypatch.undo()
    assert new.open(overwrite=True) is None
    assert [path.name for path in tmp_path.iterdir()] == ["partial"]
