"""What a person sees: names and ids as they are, never as markup or as commands to the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prepo_cli import terminal
from prepo_cli.evaluation.table import print_evaluation
from prepo_cli.text import plain

HOSTILE = "[/] [bold] :smile: \x1b[31m\x1b]0;t\x07 \u202e \r\nprepo: forged"
Capture = pytest.CaptureFixture[str]


def test_a_log_line_is_one_line(capsys: Capture) -> None:
    terminal.say(HOSTILE)
    terminal.line(HOSTILE)
    shown = capsys.readouterr()
    assert shown.err == f"prepo: {plain(HOSTILE)}\n" and shown.out == f"{plain(HOSTILE)}\n"


def test_a_table_shows_names_as_they_are(capsys: Capture) -> None:
    terminal.table(f"title {HOSTILE}", [HOSTILE, "n"], [[HOSTILE, 1], [None, 2]])
    shown = capsys.readouterr().out
    assert shown.count(plain(HOSTILE)) == 3
    assert "\x1b" not in shown and "\u202e" not in shown and shown.count("\n") == 7


@given(st.text(), st.integers(20, 150))
def test_no_text_breaks_a_table(text: str, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        patch.setenv("COLUMNS", str(width))
        terminal.table(text, [text, text], [[text, text]])
    assert all(line.isprintable() for line in out.getvalue().split("\n"))


def test_a_progress_bar_shows_its_description_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", screen)
    with terminal.progress("[/] :x: \x1b]0;t\x07", 3, "rows") as advance:
        advance(3)
    assert r"[/] :x: \x1b]0;t\x07" in screen.getvalue()
    assert "\x1b]0;" not in screen.getvalue()


def test_the_evaluation_table_shows_names_as_they_are() -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    summary = {
        "model": HOSTILE, "dataset": HOSTILE, "prompts": 1, "k": 4, "avg@4": interval,
        "by_source": {HOSTILE: {"prompts": 1, "avg@4": interval}}, "rewards": {HOSTILE: {"mean": 0.5}},
        "mean_length": 1.0, "truncated": 0.0, "max_completion_length": 4, "seconds": 1.0, "prompts_per_second": 1.0,
        "left_out": 0, "timeouts": 0, "errors": 0, "output_dir": HOSTILE, "max_prompt_length": 4,
    }  # fmt: skip
    out = io.StringIO()
    print_evaluation(summary, Console(file=out, width=300, markup=False, emoji=False, highlight=False))
    assert out.getvalue().count(plain(HOSTILE)) == 3  # the title, with both other names, is wrapped
    assert "\x1b" not in out.getvalue()
