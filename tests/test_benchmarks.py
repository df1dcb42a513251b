"""The benchmarks that need a GPU run in their small form, and count right."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks import gpu


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    from contextlib import redirect_stdout
    from io import StringIO

    said, before = StringIO(), sys.argv
    sys.argv = ["gpu", "--small", "--json", "--repeats", "2"]
    try:
        with redirect_stdout(said):
            gpu.main()
    finally:
        sys.argv = before
    measured: dict[str, Any] = json.loads(said.getvalue())
    return measured


def test_every_phase_is_measured(result: dict[str, Any]) -> None:
    assert set(result["seconds"]) == set(gpu.PHASES)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result["seconds"].values())
    rollouts = gpu.SMALL.prompts * gpu.SMALL.rollouts
    assert result["tokens"]["generate"] == rollouts * gpu.SMALL.completion_tokens
    assert result["tokens"]["update"] <= rollouts * (gpu.SMALL.prompt_tokens + gpu.SMALL.completion_tokens)
    assert result["update_flops"] > 0


def test_without_a_gpu_only_the_small_form_runs(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert "--small" in capsys.readouterr().err


def test_flops_are_those_that_torch_counts() -> None:
    """Apart from attention, where torch counts the whole square and the model needs its lower triangle."""
    work, length = gpu.SMALL, 24
    model = AutoModelForCausalLM.from_config(
        Qwen2Config(**work.shape, tie_word_embeddings=True), attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long))
    layers, width = work.shape["num_hidden_layers"], work.shape["hidden_size"]
    upper_triangle = layers * 2 * length * length * width
    assert gpu.forward_flops(work, length, length) == pytest.approx(
        counted.get_total_flops() - upper_triangle, rel=0.01
    )


def test_the_measured_model_has_qwens_size() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**gpu.QWEN_1_5B.shape, tie_word_embeddings=True))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.5437e9, rel=1e-3)
