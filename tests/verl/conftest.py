from __future__ import annotations

import pytest

from tests.verl.queue import MemoryQueue


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> MemoryQueue:
    """What verl's processes exchange, in memory."""
    memory = MemoryQueue()
    memory.install(monkeypatch)
    return memory
