"""Exit codes, one-line errors and the app's own flags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prepo_cli import __version__, main
from prepo_cli.errors import RunError, UsageError
from strategies.errors import StrategyError

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    return ended.value.code or 0


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Add a command `fail` that raises the given error."""

    def add(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setitem(main.COMMANDS, "fail", fail)

    return add


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no file 'x.jsonl'"), 2, "prepo: no file 'x.jsonl'"),
        (StrategyError("no selector 'x'"), 2, "prepo: no selector 'x'"),
        (RunError("the server\nis down"), 1, "prepo: the server is down"),
        (KeyError("lost"), 1, "prepo: KeyError: 'lost' (--debug shows the traceback)"),
        (
            OSError(5, "Input/output error"),
            1,
            "prepo: OSError: [Errno 5] Input/output error (--debug shows the traceback)",
        ),
        (OSError(28, "No space left"), 1, "prepo: can't write the results (No space left); free some space"),
        (OSError(28, "No space left", "a/b"), 1, "prepo: can't write a/b (No space left); free some space"),
        (KeyboardInterrupt(), 130, "prepo: interrupted"),
    ],
)
def test_a_failure_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, failing: Callable[[BaseException], None], capsys: Capture
) -> None:
    failing(error)
    assert exit_code("fail") == code
    shown = capsys.readouterr()
    assert re.sub(r" at tests/test_main.py:\d+", "", shown.err) == line + "\n"
    assert shown.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_is_given(
    arguments: list[str], failing: Callable[[BaseException], None], capsys: Capture
) -> None:
    failing(UsageError("no such thing"))
    assert exit_code(*arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith("prepo: no such thing\n")


@pytest.mark.parametrize(
    ("arguments", "says", "cure"),
    [
        (["strategies", "--slto", "budget"], "--slto", "see: prepo strategies --help"),
        (["strategies", "a", "b"], "(b)", "see: prepo strategies --help"),
        (["score-ppl"], "dataset", "see: prepo score-ppl --help"),
        (["trian"], "'trian'", "see: prepo --help"),
        (["--nonsense"], "--nonsense", "see: prepo --help"),
        (["eval", "--k", "0"], "k", "1"),
    ],
)
def test_bad_usage_is_one_line_with_the_cure(arguments: list[str], says: str, cure: str, capsys: Capture) -> None:
    assert exit_code(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("prepo: ")
    assert shown.err.count("\n") == 1
    assert says in shown.err.lower()
    assert cure in shown.err


def test_version_and_no_arguments(capsys: Capture) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"prepo {__version__}\n"
    assert exit_code() == 0
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("train", "score-ppl", "score-passrate", "eval", "compare", "strategies", "--debug")
    )


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: Capture) -> None:
    assert exit_code(command, "--help") == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"prepo {command}" in shown
    assert "--json" in shown


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prepo_cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"prepo {__version__}\n"


def test_a_message_is_one_harmless_line(failing: Callable[[BaseException], None], capsys: Capture) -> None:
    failing(UsageError("no file '\x1b]0;x\x07\u202e\udc80'\nprepo: http://me:secret@host/?token=x is down"))
    assert exit_code("--debug", "fail") == 2
    shown = capsys.readouterr().err
    assert shown.endswith("prepo: no file '\\x1b]0;x\\x07\\u202e\\udc80' prepo: http://***@host/?*** is down\n")
    assert "\x1b" not in shown and "secret" not in shown


@pytest.mark.parametrize("code", [0, 3, None])
def test_sys_exit_is_a_failure(code: int | None, failing: Callable[[BaseException], None], capsys: Capture) -> None:
    failing(SystemExit(code))
    assert exit_code("fail") == 1
    line = capsys.readouterr().err
    assert re.fullmatch(rf"prepo: sys\.exit\({code}\) was called at \S+test_main\.py:\d+; remove that call\n", line)


def test_an_argument_that_is_no_text_is_refused(capsys: Capture) -> None:
    assert exit_code("strategies", os.fsdecode(b"a\xffb")) == 2
    assert "a\\udcffb is not valid UTF-8" in capsys.readouterr().err


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    line = command.replace("prepo", f"{sys.executable} -m prepo_cli")
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, env=os.environ | environment, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_output_that_nobody_reads_is_no_error_message() -> None:
    assert shell("prepo strategies | true; exit ${PIPESTATUS[0]}") == (1, "", "")
    assert shell("prepo strategies --json | true; exit ${PIPESTATUS[0]}") == (1, "", "")
    assert shell("prepo strategies >&-") == (0, "", "")
    code, _, error = shell("prepo --version >/dev/full")
    assert code == 1 and error.count("\n") == 1 and error.startswith("prepo: ")


def test_a_terminal_without_unicode_or_room_is_no_error() -> None:
    code, out, error = shell("prepo strategies ppl-schedule", PYTHONIOENCODING="ascii", COLUMNS="20", NO_COLOR="1")
    assert (code, error) == (0, "") and out.isascii() and "\x1b" not in out
    code, out, error = shell("prepo strategies größe", PYTHONIOENCODING="ascii")
    assert (code, out) == (2, "") and error.startswith("prepo: unknown strategy 'größe'")
