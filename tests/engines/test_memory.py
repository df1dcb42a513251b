"""The bound on the cache that follows from free memory."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from prepo_cli.engines import memory
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.engines.memory import cache_bytes_per_token, free_bytes, tokens_that_fit
from prepo_cli.machine import free_memory
from tests.models import make_policy


@pytest.mark.parametrize(("architecture", "head_dim"), [("qwen2", 4), ("qwen3", 8), ("gemma2", 4)])
def test_bytes_per_token_are_two_float32_states_of_every_head_and_layer(architecture: str, head_dim: int) -> None:
    assert cache_bytes_per_token(make_policy(architecture)) == 2 * 2 * 2 * head_dim * 4


@pytest.mark.parametrize(("free", "tokens"), [(256 * 1000, 256), (256 * 1024, 512), (256 * 2047, 512), (0, 1)])
def test_half_of_free_memory_as_a_power_of_two(free: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert tokens_that_fit(torch.device("cpu"), 256) == tokens


def test_processes_on_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    assert free_bytes(torch.device("cpu")) == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == 250


def test_a_container_limits_memory(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available
    assert free_memory(tmp_path) == pytest.approx(available, rel=0.2)
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_memory(tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == pytest.approx(available, rel=0.2)
    (tmp_path / "memory.max").write_text("400000\n")  # lowered below what is in use
    assert free_memory(tmp_path) == 0


def test_little_memory_changes_no_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request([5, 6, 7], list(range(6)), 1.0, 20), Request([8] * 30, [1], 1.0, 20)]
    plenty = HfEngine(make_policy()).generate(requests)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    little = HfEngine(make_policy()).generate(requests)
    assert [[r.token_ids for r in group] for group in little] == [[r.token_ids for r in group] for group in plenty]
