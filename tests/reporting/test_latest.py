"""runs/latest: made when a run starts, atomically, beside the run folders alone; and the names that lead through it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.models import is_embedded_model, run_named
from prepo_cli.ownership import Marker
from prepo_cli.reporting.latest import link_latest

LATEST = Path("runs/latest")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with three run folders."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path("runs", name).mkdir(parents=True)
    return tmp_path


def names() -> list[str]:
    return sorted(os.listdir("runs"))


def test_the_link_follows_the_run_that_was_started_last(here: Path) -> None:
    for folder in (Path("runs/a"), here / "runs" / "b", Path("./runs/../runs/c")):
        link_latest(folder)
        assert os.readlink(LATEST) == folder.name
    assert names() == ["a", "b", "c", "latest"]


def test_it_is_made_for_no_other_folder() -> None:
    for place in ("elsewhere/x", "runs/study/x", "x"):
        Path(place).mkdir(parents=True)
        link_latest(Path(place))
    assert "latest" not in names()
    assert not Path("latest").exists() and not Path("elsewhere/latest").exists()


def test_the_runs_of_a_study_are_not_the_latest() -> None:
    link_latest(Path("runs/a"))
    Marker("comparison").write(Path("runs"))
    link_latest(Path("runs/b"))
    assert os.readlink(LATEST) == "a"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_our_link_stays(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "file":
        LATEST.write_text("mine")
    elif kind == "folder":
        LATEST.mkdir()
    else:
        LATEST.symlink_to(here)
    before = os.lstat(LATEST)
    link_latest(Path("runs/a"))
    assert os.lstat(LATEST).st_ino == before.st_ino
    assert names() == ["a", "b", "c", "latest"]
    assert "was not created by prepo and is left alone" in capsys.readouterr().err


def test_a_link_to_a_deleted_run_is_replaced() -> None:
    LATEST.symlink_to("gone")
    with pytest.raises(UsageError, match="runs/latest points to runs/gone, which doesn't exist"):
        run_named("latest")
    link_latest(Path("runs/a"))
    assert run_named("latest") == "runs/a"


def test_several_at_once_leave_one_link_that_always_leads_to_a_run() -> None:
    link_latest(Path("runs/a"))
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(lambda name: [link_in_process(name) for _ in range(5)], name) for name in "abc"]
        seen = set()
        while not all(future.done() for future in writing):
            seen.add(os.readlink(LATEST))  # never missing
    assert not any(future.exception() for future in writing)
    assert seen <= set("abc")
    assert names() == ["a", "b", "c", "latest"]


def link_in_process(name: str) -> None:
    """Link from a process of its own, forked so that no import has to be repeated."""
    pid = os.fork()
    if pid == 0:
        try:
            link_latest(Path("runs", name))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_names_that_mean_the_latest_run_are_replaced_by_its_folder() -> None:
    link_latest(Path("runs/b"))
    for name in ("latest", "runs/latest", "./runs/latest/"):
        assert run_named(name) == "runs/b"
    for name in ("./latest", "runs/b", "embedded", "latest/x", "runs/latest/final"):
        assert run_named(name) == name
    config = resolve(flags={"model.model_name_or_path": "latest", "output_dir": "runs/latest"})
    assert (config.model.model_name_or_path, config.output_dir) == ("runs/b", "runs/b")
    assert resolve(flags={"output_dir": "latest"}).output_dir == "latest"


def test_without_a_run_the_name_is_refused() -> None:
    for name in ("latest", "runs/latest"):
        with pytest.raises(UsageError, match=r"no run has been started here \(no runs/latest\)"):
            run_named(name)


def test_a_model_is_embedded_by_its_architecture() -> None:
    assert is_embedded_model("embedded")
    assert not is_embedded_model("runs/a")
    ours = (Path(__file__).parents[2] / "prepo_cli" / "assets" / "model" / "config.json").read_text()
    Path("runs/a/final").mkdir()
    Path("runs/a/final/config.json").write_text(ours.replace('"dtype": "bfloat16"', '"dtype": "float32"'))
    assert is_embedded_model("runs/a") and is_embedded_model("runs/a/final")
    assert resolve(flags={"model.model_name_or_path": "runs/a"}).training.max_completion_length == 96
    for other in (ours.replace('"hidden_size": 128', '"hidden_size": 256'), "[]", "{", ""):
        Path("runs/a/final/config.json").write_text(other)
        assert not is_embedded_model("runs/a")
