"""A run is not resumed with other data, another base model or another tokenizer than it started with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from prepo_cli.config import ASSETS, resolve
from prepo_cli.errors import UsageError
from prepo_cli.training.train import train

SMALL = [
    "training.prompts_per_step=2",
    "training.num_generations=2",
    "training.max_completion_length=8",
    "training.total_steps=2",
    "training.save_steps=1",
    "reporting.figures=false",
]


def rows(path: Path, answers: Iterable[int]) -> None:
    lines = [json.dumps({"prompt": f"Compute {answer} + 0.", "answer": str(answer)}) for answer in answers]
    path.write_text("\n".join(lines))


def start(folder: Path, *more: str, **options: Any) -> None:
    data = [f"data.dataset_name={folder / 'train.jsonl'}", "evaluation.dataset_name=null"]
    train(resolve(sets=[*SMALL, *data, f"output_dir={folder / 'run'}", *more]), **options)


def half_done(folder: Path, *more: str) -> None:
    """A run whose newest checkpoint is that of its first step."""
    rows(folder / "train.jsonl", range(8))
    start(folder, *more)
    shutil.rmtree(folder / "run" / "checkpoints" / "step-000002")


def test_an_edited_row_of_the_training_set_is_named(tmp_path: Path) -> None:
    half_done(tmp_path)
    rows(tmp_path / "train.jsonl", [*range(5), 50, *range(6, 8)])
    with pytest.raises(UsageError, match=r"train.jsonl, line 6 \(id '5'\) differs from the"):
        start(tmp_path, resume=True)
    rows(tmp_path / "train.jsonl", range(8))
    start(tmp_path, resume=True)
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


def test_another_evaluation_set_is_named(tmp_path: Path) -> None:
    evaluation = [f"evaluation.dataset_name={tmp_path / 'test.jsonl'}", "evaluation.at_start=false"]
    rows(tmp_path / "test.jsonl", range(3))
    half_done(tmp_path, *evaluation, "evaluation.num_samples=1")
    rows(tmp_path / "test.jsonl", range(1, 4))
    with pytest.raises(UsageError, match=r"test.jsonl, line 1 .* evaluation set in .* .2 more changed"):
        start(tmp_path, *evaluation, "evaluation.num_samples=1", resume=True)


def test_another_base_model_of_adapters_is_refused(tmp_path: Path) -> None:
    base = shutil.copytree(ASSETS / "model", tmp_path / "base")
    adapters = [f"model.model_name_or_path={base}", "model.use_peft=true"]
    half_done(tmp_path, *adapters)
    (weights_file,) = base.glob("*.safetensors")
    weights = load_file(weights_file)
    name = max(weights, key=lambda name: weights[name].numel())
    save_file({**weights, name: weights[name] * 1.25}, weights_file, metadata={"format": "pt"})
    with pytest.raises(
        UsageError, match=r"the base model differs from the checkpoint's; .* start over with --overwrite"
    ):
        start(tmp_path, *adapters, resume=True)
