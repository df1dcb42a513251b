"""The comparison in the terminal: every figure as it is, whatever the recipes are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prepo_cli.comparison.tables import show
from tests.comparison.made import make_comparison
from tests.tables import rows_of


def test_bounds_and_names_in_brackets_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(make_comparison(tmp_path, ("random", "greso", "[red]"), steps=5))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    rows = rows_of(lines[1:])
    assert [row[0] for row in rows] == ["random", "greso", "[red]"]
    costs = rows_of(lines[1 + next(i for i, line in enumerate(lines) if "generated" in line) :])
    assert costs[0] == ["random", "40,000", "9,600,000", "9,000,000", "600,000", "310"]
    assert rows[0][3:7] == ["baseline", "", "", ""]
    assert rows[1][6] == "0.55 [0.48, 0.90]"
    assert rows[2][6] == "> 1.80, never reached"
    assert shown.splitlines()[0] == "avg@8 on 200 prompts, compared with random; cost ratio: rollouts to reach 0.612"
    assert "- calibrated reaches random's final accuracy" in shown


def test_columns_that_say_nothing_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = make_comparison(tmp_path, ("random", "greso"), steps=5)
    bare = tuple(replace(recipe, cost_ratios={}, p_holm=None) for recipe in comparison.recipes)
    show(replace(comparison, recipes=bare))
    heads = capsys.readouterr().out.splitlines()[1]
    assert "P(better)" in heads
    assert "cost ratio" not in heads and "p (Holm)" not in heads
