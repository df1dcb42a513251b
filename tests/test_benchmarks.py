"""Benchmarks run in their small form, and count right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks import compare, gpu
from prepo_cli.comparison.runs import read_run


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
    # DeepSpeed, where it is installed, logs to stdout when it is first imported.
    measured: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
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


def test_comparing_a_made_up_study(tmp_path: Path) -> None:
    size = compare.Size(recipes=3, seeds=2, steps=40, evaluations=4, prompts=10, rollout_steps=6)
    folders = compare.make_study(tmp_path / "runs", size)
    written = [(folder / "summary.json").stat().st_mtime_ns for folder in folders]
    runs = [read_run(folder) for folder in compare.make_study(tmp_path / "runs", size)]
    assert [(folder / "summary.json").stat().st_mtime_ns for folder in folders] == written
    assert (len(runs), len({run.recipe for run in runs}), {run.steps for run in runs}) == (6, 3, {40})
    assert {len(run.metrics) for run in runs} == {compare.METRICS}
    assert {np.shape(run.evaluations_EP) for run in runs} == {(4, 10)}
    found = compare.measure(folders, tmp_path / "comparison")
    assert found["cpu_s"] > 0 and 100 < found["memory_mib"] < 1000
    assert found["page_mb"] == (tmp_path / "comparison" / "page.html").stat().st_size / 1e6
    pictures = {path.stem for path in (tmp_path / "comparison").glob("*.png")}
    assert pictures == {path.stem for path in (tmp_path / "comparison").glob("*.svg")}
    assert pictures >= {"accuracy_rollouts", "zero_variance", "perplexity_pass_rate", "phases"}
