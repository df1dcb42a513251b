"""What a person sees: names and ids as they are, never as markup or as commands to the terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli import terminal
from prepo_cli.evaluation.table import print_evaluations
from prepo_cli.text import plain

HOSTILE = "[/] [bold] :smile: \x1b[31m\x1b]0;t\x07 \u202e \r\nprepo: forged"
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
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
    assert "\x1b" not in shown and "\u202e" not in shown and shown.count("\n") == 6


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


def test_the_evaluation_table_shows_names_as_they_are(capsys: Capture) -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    summary = {
        "model": HOSTILE, "dataset": HOSTILE, "prompts": 1, "k": 4, "avg@4": interval,
        "by_source": {HOSTILE: {"prompts": 1, "avg@4": interval}}, "rewards": {HOSTILE: {"mean": 0.5}},
        "mean_length": 1.0, "truncated": 0.0, "max_completion_length": 4, "seconds": 1.0, "prompts_per_second": 1.0,
        "left_out": 0, "timeouts": 0, "errors": 0, "output_dir": HOSTILE, "max_prompt_length": 4,
    }  # fmt: skip
    print_evaluations([summary])
    shown = capsys.readouterr().out
    assert shown.count(plain(HOSTILE)) == 5  # two in the title, two tables' rows, and the folder
    assert "\x1b" not in shown


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch, stream: str, columns: int) -> Screen:
    """A terminal of so many columns in place of stdout or stderr."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(f"sys.{stream}", found := Screen())
    return found


HEADS = ("recipe", "seeds", "final", "difference", "p (Holm)", "P(better)", "cost ratio", "rollouts", "tokens")
ROWS = [
    ["calibrated", 5, "0.585 [0.544, 0.626]", "+0.046 [+0.012, +0.080]", "0.012", "0.99", "0.52 [0.41, 0.66]",
     "163,840", "4,174,175"],
    ["a recipe of one's own, a long name", 5, "0.581 [0.541, 0.621]", "baseline", "", "", "", "163,840", "520,716"],
]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_a_table_fits_the_terminal_and_shows_every_cell(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, "stdout", columns)
    terminal.table("a title that is longer than any terminal is wide " * 4, HEADS, ROWS)
    lines = [STYLE.sub("", line).rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    for cell in (*HEADS, *ROWS[0], *ROWS[1]):
        assert any(str(cell) in line for line in lines), cell
    assert (sum(line.startswith("calibrated ") for line in lines) == 1) == (columns == 160)


def test_a_piped_table_has_a_line_for_each_row(capsys: Capture) -> None:
    terminal.table("title", HEADS, [[*ROWS[0][:-1], "x" * 300]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(str(cell) in lines[3] for cell in ROWS[0][:-1])


def test_a_long_line_is_broken_between_words_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    terminal.line("a sentence " * 20)
    assert capsys.readouterr().out.count("\n") == 1
    shown = screen(monkeypatch, "stdout", 80)
    terminal.line("a sentence " * 20)
    assert max(map(len, shown.getvalue().splitlines())) <= 80
    assert shown.getvalue().split() == ["a", "sentence"] * 20


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_progress_of_a_long_run_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, "stderr", columns)
    with terminal.TrainingDisplay("tokens", 98_765_000, 123_456_789) as display:
        for done in (98_765_200, 98_765_432):
            metrics = {"reward": 0.5, "frac_reward_zero_std": 0.25, "cost/rollouts_total": 1_234_567}
            display.step(metrics, done)
    text = STYLE.sub("", shown.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]", text)]
    assert max(map(len, lines)) <= columns
    last = " ".join(lines[-3:])
    for piece in ("98,765,432/123,456,789", "tokens/s", " left", "reward 0.500  zero-std 25%  rollouts 1,234,567"):
        assert piece in last
    assert "…" not in text
