"""The lock of an output, between real processes: held, left by a kill, raced for, forked, and other machines' locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from prepo_cli.errors import UsageError
from prepo_cli.lock import Holder, locked, locked_folder
from prepo_cli.ownership import LOCK

ROOT = Path(__file__).parents[1]
HOLD = (
    "import pathlib, sys\n"
    "from prepo_cli.lock import locked\n"
    "with locked(pathlib.Path(sys.argv[1]), pathlib.Path('out')):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LOCK


def forked(act: Callable[[], int]) -> int:
    """The exit code of a forked process; 100 after an error."""
    pid = os.fork()
    if pid == 0:
        code = 100
        try:
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_free(path: Path) -> bool:
    try:
        with locked(path, Path("out")):
            return True
    except UsageError:
        return False


def test_a_second_process_is_refused_and_the_first_unharmed(path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path)]
    first = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    before = path.read_bytes()
    for break_lock in (False, True):
        with (
            pytest.raises(UsageError, match=rf"^out is in use by process {first.pid} on \S+ since 20\d\d-.* stop it$"),
            locked(path, Path("out"), break_lock),
        ):
            pass
    assert path.read_bytes() == before
    assert json.loads(before)["started"] == pytest.approx(psutil.Process(first.pid).create_time(), abs=1)
    first.communicate()
    assert first.returncode == 0
    assert not path.exists()
    assert is_free(path)


@pytest.mark.parametrize("room", [0, 50])
def test_a_lock_that_does_not_fit_leaves_no_file(path: Path, room: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"^can't lock out \(.*\); free some space, or"), locked(path, Path("out")):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    assert is_free(path)


def test_the_lock_of_a_killed_process_is_taken_over_aloud(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def be_killed() -> int:
        with locked(path, Path("out")):
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert forked(be_killed) == -signal.SIGKILL
    pid = json.loads(path.read_text())["pid"]
    with locked(path, Path("out")):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not is_free(path), "the same process can't have it twice either"
    assert f"taking over out from process {pid} on " in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_released_after_errors(path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), locked(path, Path("out")):
        raise error
    assert not path.exists()


def test_of_racing_processes_one_is_inside_at_a_time(path: Path, tmp_path: Path) -> None:
    """Each tries again and again; whoever is inside makes a file that must not be there yet."""
    path.write_text(json.dumps(asdict(replace(Holder.me(), pid=2**22 + 1))))  # stale from the start

    def race() -> int:
        entered, end = 0, time.monotonic() + 20
        while entered < 10 and time.monotonic() < end:
            try:
                with locked(path, Path("out")):
                    os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                    (tmp_path / "inside").unlink()
                    entered += 1
            except UsageError:
                time.sleep(0.001)
        return entered

    racing = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 100
            try:
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115
                code = race()
            finally:
                os._exit(code)
        racing.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in racing] == [10] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_neither_holds_nor_releases_it(path: Path) -> None:
    with locked(path, Path("out")):

        def leave() -> int:
            with pytest.raises(RuntimeError), locked(path.with_name("other"), Path("other")):
                raise RuntimeError
            return 0 if path.exists() and not is_free(path) else 1

        assert forked(leave) == 0
    context = locked(path, Path("out"))
    context.__enter__()
    assert forked(lambda: int(bool(context.__exit__(None, None, None)))) == 0
    assert path.exists() and not is_free(path)
    context.__exit__(None, None, None)
    assert not path.exists()


def test_a_process_that_outlives_the_one_that_forked_it_does_not_hold_it(path: Path, tmp_path: Path) -> None:
    def fork_and_be_killed() -> int:
        with locked(path, Path("out")):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert forked(fork_and_be_killed) == -signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    try:
        deadline = time.monotonic() + 10  # until the child has run far enough to let go
        while not is_free(path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert psutil.pid_exists(child)
        assert is_free(path)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(asdict(replace(Holder.me(), host="node17"))),
        "not JSON",
        "[1]",
        '{"pid": "x"}',
        '{"pid": 1, "host": "here"}',
        "\0" * 50,
    ],
)
def test_another_machines_lock_needs_break_lock(path: Path, content: str) -> None:
    path.write_text(content)
    with (
        pytest.raises(UsageError, match=r"on another machine; if that process has ended, pass --break-lock"),
        locked(path, path),
    ):
        pass
    assert path.read_text() == content
    with locked(path, path, break_lock=True):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_that_was_broken_is_not_deleted_by_its_former_holder(path: Path) -> None:
    with locked(path, path):
        path.write_text(json.dumps(asdict(replace(Holder.me(), host="node17"))))
    assert json.loads(path.read_text())["host"] == "node17"


def test_credentials_stay_out_of_the_lock_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["prepo", "train", "--set", "engine.vllm_server_base_url=http://me:secret@node1:8000"]
    )
    with locked(path, path):
        command = json.loads(path.read_text())["command"]
    assert command.startswith("prepo train --set ") and "node1:8000" in command and "secret" not in command


def test_an_empty_lock_file_is_what_a_kill_at_the_start_leaves(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.touch()
    assert is_free(path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "before", ["", json.dumps(asdict(replace(Holder.me(), pid=2**22 + 1)))], ids=["empty", "stale"]
)
def test_who_has_just_taken_it_is_named_once_it_has_written_its_name(path: Path, before: str) -> None:
    path.write_text(before)
    with path.open("r+b") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        named = threading.Timer(0.1, path.write_text, [json.dumps(asdict(Holder.me()))])
        named.start()
        with (
            pytest.raises(UsageError, match=rf"^out is in use by process {os.getpid()} on "),
            locked(path, Path("out")),
        ):
            pass
        named.join()


def test_who_never_writes_its_name_is_another_process(path: Path) -> None:
    path.touch()
    with path.open("r+b") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"^out is in use by another process; wait "), locked(path, Path("out")):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks_the_process_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    me = Holder.me()
    path.write_text(json.dumps(asdict(me)))
    assert not is_free(path)
    path.write_text(json.dumps(asdict(replace(me, started=me.started - 60))))  # the number went to another process
    assert is_free(path)
    path.write_text(json.dumps(asdict(replace(me, pid=2**22 + 1))))
    assert is_free(path)


def test_a_folder_is_made_for_its_lock_and_goes_if_nothing_gets_into_it(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "own").mkdir()
    with locked_folder(tmp_path / "own"):
        pass
    with locked_folder(tmp_path / "used"):
        (tmp_path / "used" / "x").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "own", "used"]


@pytest.mark.parametrize("place", ["file", "file/sub", "dangling", "dangling/sub"])
def test_where_no_folder_can_be_nothing_is_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"; choose another folder$"), locked_folder(tmp_path / place):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_a_lock_file_that_is_none_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(UsageError, match=r"can't lock out \(\.prepo\.lock: "), locked(path, Path("out")):
        pass
