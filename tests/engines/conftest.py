"""A fake vLLM server for the duration of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prepo_cli.engines import vllm_http, vllm_server
from tests.engines.fake_vllm import FakeVllm


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    server = FakeVllm()
    yield server
    server.stop()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between retries, and between signs of life."""
    monkeypatch.setattr(vllm_http, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(vllm_http, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(vllm_server, "HEARTBEAT_S", 0.1)
