"""examples/notebook.ipynb runs from top to bottom, draws its two plots, and is stored without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
RUN = """
import json, sys
import matplotlib
matplotlib.use("svg")
cells = json.loads(sys.stdin.read())
for number, source in enumerate(cells):
    exec(compile(source, f"cell {number}", "exec"))
assert matplotlib.get_backend() == "svg", "drawing the learning curve changed how the notebook draws"
drawn = [plt.figure(number) for number in plt.get_fignums()]
print(json.dumps([len(axes.lines) for figure in drawn for axes in figure.axes]))
"""


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_it_runs_and_draws_two_plots(tmp_path: Path) -> None:
    sources = ["".join(cell["source"]) for cell in cells("code")]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(sources), cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    curves = json.loads(done.stdout.splitlines()[-1])
    assert len(curves) == 2, "two figures"
    assert curves[0] == 2
    assert curves[1] >= 2
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"notebook-prepo", "notebook-own"}
    assert (tmp_path / "evals" / "notebook" / "summary.json").is_file()


def test_it_is_stored_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    assert len({cell["id"] for kind in ("code", "markdown") for cell in cells(kind)}) == len(cells("code")) + len(
        cells("markdown")
    )
