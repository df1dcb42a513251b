"""A kill that strikes in the middle of deleting files."""

from __future__ import annotations

from pathlib import Path

import pytest


def kill_after(deleted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the process when it is about to delete one file more than `deleted`, until `monkeypatch.undo()`."""
    unlink, left = Path.unlink, [deleted]

    def strike(self: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", strike)
