from __future__ import annotations

from typing import Any

import pytest
import ray

from tests.verl.queue import MemoryQueue


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would start itself at the first call that needs it."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a test started Ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> MemoryQueue:
    """What verl's processes exchange, in memory."""
    memory = MemoryQueue()
    memory.install(monkeypatch)
    return memory
