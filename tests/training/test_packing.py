"""Packed rows in a run: the same update as padded ones, and a word where a model can't pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve
from prepo_cli.policy import scoring
from prepo_cli.policy.plans import Arrangement
from prepo_cli.policy.rows import Rows
from prepo_cli.training.train import train


def run(folder: Path) -> dict[str, Any]:
    """The metrics of a step with many short rollouts of unlike lengths."""
    sets = [
        "training.prompts_per_step=16", "training.num_generations=8", "training.max_completion_length=32",
        "training.total_steps=1", "training.beta=0.1", "training.loss_type=grpo", "evaluation.at_start=false",
        "evaluation.at_end=false", f"output_dir={folder}",
    ]  # fmt: skip
    train(resolve(flags={"recipe": "grpo"}, sets=sets))
    return json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8"))


def test_a_step_on_packed_rows_is_that_on_padded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, seen = Rows.of, list[Arrangement]()

    def of(*arguments: Any) -> Rows:
        seen.extend(arguments[5:])
        return made(*arguments)

    monkeypatch.setattr(Rows, "of", of)
    packed = run(tmp_path / "packed")
    assert any(arrangement.packs for arrangement in seen)
    assert "not packed" not in capsys.readouterr().err
    seen.clear()
    monkeypatch.setattr(scoring, "packing_of", lambda scorer: None)
    padded = run(tmp_path / "padded")
    assert not any(arrangement.packs for arrangement in seen)
    assert "short rows are padded, not packed: llama with sdpa attention" in capsys.readouterr().err
    for name in ("loss", "grad_norm", "kl"):
        assert packed[name] == pytest.approx(padded[name], rel=1e-4, abs=1e-7), name
    assert packed["reward"] == padded["reward"]
