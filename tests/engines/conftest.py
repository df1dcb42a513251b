"""A fake vLLM server for the duration of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.fake_vllm import FakeVllm


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    server = FakeVllm()
    yield server
    server.stop()
