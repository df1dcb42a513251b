"""prepo from Python: `resolve`, `train`, `evaluate`, `score_ppl`, `score_passrate` and `load_run`.

Each is imported when it is first used, so `import prepo_cli` loads nothing else. `prepo` is the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prepo_cli.api.evaluate import evaluate
    from prepo_cli.api.load_run import load_run
    from prepo_cli.api.score_passrate import score_passrate
    from prepo_cli.api.score_ppl import score_ppl
    from prepo_cli.config import resolve
    from prepo_cli.errors import UsageError
    from prepo_cli.training.train import train

__all__ = ["UsageError", "evaluate", "load_run", "resolve", "score_passrate", "score_ppl", "train"]

__version__ = "0.1.0"

_HOMES = {
    "UsageError": "prepo_cli.errors",
    "evaluate": "prepo_cli.api.evaluate",
    "load_run": "prepo_cli.api.load_run",
    "resolve": "prepo_cli.config",
    "score_passrate": "prepo_cli.api.score_passrate",
    "score_ppl": "prepo_cli.api.score_ppl",
    "train": "prepo_cli.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
