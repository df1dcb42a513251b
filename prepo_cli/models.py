"""What a model's name means before anything is loaded: the embedded model, or the run that was started last.

`runs/latest` is a link that `prepo train` keeps beside the run folders. Names that lead through it are replaced by the
run folder's own at once, so that what is written down still means the same run when the link has moved on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prepo_cli.errors import UsageError
from prepo_cli.sections import EMBEDDED

EMBEDDED_MODEL = Path(__file__).parent / "assets" / "model"
RUNS = Path("runs")
"""Where runs are written by default, relative to the current folder."""
LATEST = RUNS / "latest"
UNRELATED = ("dtype", "transformers_version", "use_cache")
"""Of a model's configuration: how it was saved, not what it is."""


def run_named(name: str) -> str:
    """The run folder that `latest` and `runs/latest` stand for; any other name unchanged.

    Raises:
        UsageError: no run has been started in this folder, or the latest one is gone.
    """
    if name != LATEST.name and Path(name) != LATEST:
        return name
    if not os.path.lexists(LATEST):
        raise UsageError(f"{name}: no run has been started here (no {LATEST}); name a run folder")
    if not LATEST.is_symlink():
        return str(LATEST)
    folder = LATEST.parent / LATEST.readlink()
    if not folder.is_dir():
        raise UsageError(f"{name}: {LATEST} points to {folder}, which doesn't exist; name a run folder")
    return str(folder)


def is_embedded_model(name: str) -> bool:
    """Whether it is the embedded model or one trained from it: the same architecture, in a run or a folder."""
    if name == EMBEDDED:
        return True
    ours = _architecture(EMBEDDED_MODEL)
    return any(_architecture(folder) == ours for folder in (Path(name) / "final", Path(name)))


def _architecture(folder: Path) -> dict[str, Any] | None:
    """The model's configuration; None without one."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
        return {key: value for key, value in content.items() if key not in UNRELATED}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
