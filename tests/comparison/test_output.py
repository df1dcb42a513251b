"""The folder of a comparison: which files it may write, and which runs a study may continue or replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prepo_cli.comparison.output import PAGE, claimed
from prepo_cli.comparison.plan import PlannedRun, parse_recipes, plan
from prepo_cli.errors import UsageError
from prepo_cli.ownership import MARKER, Marker, read_marker
from prepo_cli.reporting.run_folder import RunFolder


def put(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def planned(root: Path) -> list[PlannedRun]:
    return plan(parse_recipes("random"), [0], root)


def begin(run: PlannedRun) -> RunFolder:
    folder = RunFolder(run.folder)
    with folder.claimed(run.config, resume=False, overwrite=False):
        folder.begin(run.config, resume=False)
    return folder


@pytest.mark.parametrize("name", [PAGE, "weights.png", "phases.svg", "logs/random-seed0.log", "logs/random-seed0.yaml"])
def test_foreign_files_are_not_replaced_and_ours_are(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    with (
        pytest.raises(UsageError, match="was not written by prepo, or by an older version; move it, or choose another"),
        claimed(tmp_path, planned(tmp_path)),
    ):
        pass
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    for _ in range(2):
        with claimed(tmp_path, planned(tmp_path)):
            put(tmp_path / name, "ours")


def test_other_files_may_lie_there(tmp_path: Path) -> None:
    put(tmp_path / "notes.txt")
    with claimed(tmp_path, []):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "notes.txt"]


def test_a_second_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    with claimed(tmp_path, []), pytest.raises(UsageError, match="is in use by process"), claimed(tmp_path, []):
        pass


def test_the_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    Marker("run", ("*",)).write(tmp_path)
    with pytest.raises(UsageError, match="belongs to a prepo run"), claimed(tmp_path, []):
        pass


def stranger(run: PlannedRun) -> None:
    """A run of an older prepo, or what looks like one."""
    begin(run)
    put(run.folder / "final" / "thesis.tex")
    (run.folder / MARKER).unlink()


@pytest.mark.parametrize("make", [begin, stranger])
def test_an_unfinished_run_that_the_study_did_not_start_is_left_alone(
    tmp_path: Path, make: Callable[[PlannedRun], object]
) -> None:
    (run,) = planned(tmp_path)
    make(run)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="that this study did not start; delete it"), claimed(tmp_path, [run]):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_that_may_go_on(tmp_path: Path) -> None:
    """The study's own, whatever their state; others that are finished, or that a checkpoint can resume."""
    (run,) = planned(tmp_path)
    with claimed(tmp_path, [run]):
        begin(run)
    with claimed(tmp_path, [run]):
        pass
    marker = read_marker(tmp_path)
    assert marker is not None and f"{run.folder.name}/" in marker.files
    for name in ("summary.json", "checkpoints/step-000001/state.json"):
        (other,) = planned(tmp_path / name.replace("/", "-"))
        stranger(other)
        put(other.folder / name, "{}")
        with claimed(other.folder.parent, [other]):
            pass
