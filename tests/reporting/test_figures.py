"""Titles of figures are shown as they are."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from prepo_cli.reporting.figures import (
    LONGEST_TITLE,
    canvas,
    drawable,
    learning_curve,
    perplexity_histogram,
    plain_log_ticks,
    set_title,
)


@pytest.mark.parametrize("name", ["$x_{$", r"$\frac{$", "a$b$c", "\x1b[31m", "統計\n" * 100, "_x", "", "%s {0}"])
def test_any_name_can_be_a_title(name: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perplexity_histogram(np.array([1.0, 2.0, 30.0]), path, name)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_title_is_literal_and_short(tmp_path: Path) -> None:
    with canvas(tmp_path / "figure.png") as axes:
        set_title(axes, "$x^2$ " + "long " * 100)
        title = axes.get_title(loc="left")
        assert title.startswith("$x^2$ long") and len(title) == LONGEST_TITLE
        assert not axes._left_title.get_parse_math()
    assert drawable("a\tb\x1b", 10) == r"a b\x1b"


@pytest.mark.parametrize(("low", "high"), [(0.8, 7.5), (1.2, 640.0), (1.0, 3e6), (0.002, 40.0)])
def test_a_logarithmic_axis_has_plain_numbers(low: float, high: float, tmp_path: Path) -> None:
    with canvas(tmp_path / "figure.png") as axes:
        axes.plot([low, high], [0, 1])
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, low, high)
        axes.figure.canvas.draw()
        labels = [label.get_text() for label in axes.get_xticklabels()]
        shown = [float(text.replace(",", "")) for text in labels]
    assert not any(mark in text for text in labels for mark in ("e", "$", "times"))
    assert 3 <= len([value for value in shown if low <= value <= high]) <= 12


def test_perplexities_are_drawn_with_plain_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    save = Figure.savefig

    def read_labels(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        save(figure, *arguments, **keywords)
        drawn.extend(label.get_text() for label in figure.axes[0].get_xticklabels(which="both"))

    monkeypatch.setattr(Figure, "savefig", read_labels)
    perplexity_histogram(np.geomspace(2, 900, 50), tmp_path / "figure.png", "ppl")
    assert {"5", "50", "500"} <= set(drawn)


def test_the_learning_curve_counts_steps_as_the_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves: list[list[float]] = []
    ticks: list[float] = []
    save = Figure.savefig

    def read_curves(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        curves.extend(line.get_xdata().tolist() for line in figure.axes[0].get_lines()[:2])
        ticks.extend(figure.axes[1].get_xticks())
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", read_curves)
    lines = [{"step": step, "reward": 0.5, "frac_reward_zero_std": 0.5, "entropy": 1.0} for step in range(3)]
    learning_curve(lines, [], tmp_path / "curve.png")
    assert curves == [[0, 1, 2], [0, 1, 2]]
    assert {0, 1, 2} <= set(ticks) and all(tick == int(tick) for tick in ticks)
