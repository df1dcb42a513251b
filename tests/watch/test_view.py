"""`prepo watch` as users see it: at every width, piped, as JSON, live until the run's end, and left with Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from rich.cells import cell_len
from rich.console import Console

from prepo_cli.lock import locked
from prepo_cli.main import main
from prepo_cli.ownership import LOCK
from prepo_cli.watch.run import WatchedRun
from prepo_cli.watch.view import view
from tests.watch.folders import finish, roll_out, started, train

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[2J\x1b]0;owned\x07 [bold]red[/bold] \u202e" + "and again " * 40 + "\\boxed{7}"
TITLES = ["reward", "held-out avg@4", "zero-variance groups", "tokens generated/s", "rollouts per step",
          "tokens per step"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run = started(Path("run"))
    train(run, 0, 30)
    roll_out(run, 29, HOSTILE, "1 + 1\n= 2", "again")
    return run.path


def printed(path: Path, width: int, height: int = 24, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")  # as `main` sets it
    console = Console(file=file, width=width, height=height)
    console.print(view(WatchedRun(path), console))
    file.seek(0)
    return file.read().splitlines()


@pytest.mark.parametrize("width", [40, 80, 100, 160, 240])
def test_it_fits_at_every_width_and_shows_everything(folder: Path, width: int) -> None:
    lines = printed(folder, width)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert all(title in text for title in TITLES)
    assert "step 30 of 50" in re.sub(r"\s+", " ", text)
    assert "0.290" in text
    assert "240 in total" in text
    assert "\\boxed{7}" in text, "the end of a long completion is shown"
    assert "right      1  What is 1 + 1?" in text
    assert "1 + 1 = 2" in text


def test_it_fills_a_terminal_of_24_lines_and_plots_grow_with_it(folder: Path) -> None:
    assert len(printed(folder, 80)) <= 23
    assert 23 < len(printed(folder, 80, 40)) <= 39


def test_hostile_text_is_inert(folder: Path) -> None:
    text = "\n".join(printed(folder, 240))
    assert "\\x1b[2J" in text
    assert "[bold]red[/bold] \\u202e" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_without_unicode(folder: Path) -> None:
    text = "\n".join(printed(folder, 80, encoding="ascii"))
    assert "| " in text
    assert "**" in text


def test_before_the_first_step_and_without_evaluations(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert "no steps yet" in "\n".join(printed(tmp_path, 240))
    with locked(tmp_path / LOCK, tmp_path):
        assert "running, starting" in "\n".join(printed(tmp_path, 240))
    train(run, 0, 1)
    assert "none so far" in "\n".join(printed(tmp_path, 240))


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["watch", *arguments])
    return int(end.value.code or 0)


def test_piped_it_prints_the_run_as_it_is_even_while_it_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(folder / LOCK, folder):
        assert exit_code(str(folder)) == 0
    out, err = capsys.readouterr()
    assert "running, step 30 of 50, 0:00:10 left" in re.sub(r"\s+", " ", out)
    assert (out.count("completions of step 30"), err) == (1, "")


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(str(folder), "--json") == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert err == ""
    assert [shown[key] for key in ("state", "steps", "share", "reward", "tokens_per_second")] == [
        "stopped", 30, 0.6, 0.29, pytest.approx(200)
    ]  # fmt: skip
    assert shown["cost"] == {"rollouts": 240, "tokens": 3600, "seconds": 15}
    assert shown["evaluation"] == {"step": 30, "metric": "avg@4", "value": 0.5, "low": 0.4, "high": 0.79}
    assert len(shown["completions"]) == 3


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(str(tmp_path), "--once") == 2
    assert capsys.readouterr().err == f"prepo: {tmp_path} is not a run folder; pass the output folder of prepo train\n"


def live(folder: Path, until: str, act: Callable[[subprocess.Popen[bytes]], None]) -> tuple[int, str]:
    """Watch in a terminal, act once the screen shows `until`; the exit code and all that was printed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "prepo_cli", "watch", str(folder)]
    watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown, acted, deadline = b"", False, monotonic() + 60
    while monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # its end closed the terminal
                break
        if not acted and until.encode() in shown:
            act(watching)
            acted = True
    os.close(ours)
    return watching.wait(10), shown.decode("utf-8", "replace")


def test_live_until_the_run_ends(folder: Path) -> None:
    lock = locked(folder / LOCK, folder)
    lock.__enter__()

    def end(_: subprocess.Popen[bytes]) -> None:
        run = WatchedRun(folder).folder
        train(run, 30, 50)
        finish(run, 50)
        lock.__exit__(None, None, None)

    code, shown = live(folder, "step 30 of 50", end)
    assert code == 0
    assert "finished" in shown
    assert "50 steps in 0:00:25" in shown
    assert shown.rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_ctrl_c_ends_the_watching_not_the_run(folder: Path) -> None:
    with locked(folder / LOCK, folder):
        code, shown = live(folder, "step 30 of 50", lambda watching: watching.send_signal(signal.SIGINT))
    assert code == 130
    assert "stopped watching" in shown
    assert "Traceback" not in shown
    assert "\x1b[?25h" in shown
