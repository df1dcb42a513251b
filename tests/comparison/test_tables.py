"""The comparison in the terminal: every figure as it is, whatever the recipes are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.comparison.tables import show
from tests.comparison.made import make_comparison


def test_bounds_and_names_in_brackets_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(make_comparison(tmp_path, ("random", "greso", "[red]"), steps=5))
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows if row[0]] == ["random", "greso", "[red]"] * 2
    rows, costs = rows[:-3], rows[-3:]
    assert costs[0] == ["random", "40,000", "9,600,000", "9,000,000", "600,000", "310"]
    assert rows[0][3:7] == ["baseline", "", "", ""]
    assert rows[1][6] == "0.55 [0.48, 0.90]"
    assert " ".join(row[6] for row in rows[2:]).strip() == "> 1.80, never reached"  # may take two lines
    assert shown.splitlines()[0] == "avg@8 on 200 prompts, compared with random; cost ratio: rollouts to reach 0.612"
    assert "- calibrated reaches random's final accuracy" in shown
