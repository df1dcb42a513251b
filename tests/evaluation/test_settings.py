"""An evaluation's settings: what its fingerprint depends on, and lengths that fit the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.settings import EvalConfig, fingerprint
from tests.evaluation.answering import Sums


def test_fingerprint_tells_models_data_and_settings_apart(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 3_000_000)
    config = EvalConfig(output_dir="x")
    marks = {fingerprint(config, str(tmp_path), Sums(3))}
    same = config.model_copy(update={"output_dir": "y"})
    same.rewards.workers, same.engine.max_batch_tokens = 3, 17
    marks.add(fingerprint(same, str(tmp_path), Sums(3)))
    assert len(marks) == 1
    marks.add(fingerprint(config, str(tmp_path), Sums(4)))
    marks.add(fingerprint(EvalConfig(output_dir="x", top_p=0.9), str(tmp_path), Sums(3)))
    weights.write_bytes(b"b" + b"a" * 2_999_999)
    marks.add(fingerprint(config, str(tmp_path), Sums(3)))
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("model", "context", "asked", "lengths"),
    [
        ("embedded", 256, None, (96, 160)),
        ("other", None, None, (2560, 30208)),
        ("other", 32768, None, (2560, 30208)),
        ("other", 3000, None, (1500, 1500)),
        ("other", 3000, 2900, (2900, 100)),
    ],
)
def test_lengths_fit_the_context(model: str, context: int | None, asked: int | None, lengths: Any) -> None:
    config = EvalConfig.model_validate(
        {"model": {"model_name_or_path": model}, "max_completion_length": asked, "output_dir": "x"}
    )
    fitted = config.with_lengths(context)
    assert (fitted.max_completion_length, fitted.max_prompt_length) == lengths


def test_no_room_for_a_prompt() -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        EvalConfig(output_dir="x", max_completion_length=256).with_lengths(256)


def test_the_embedded_model_is_cut_where_its_training_cuts_it() -> None:
    fitted = EvalConfig(output_dir="x").with_lengths(4096)
    assert fitted.max_completion_length == resolve().training.max_completion_length


def test_greedy_decoding_takes_one_sample() -> None:
    assert EvalConfig(output_dir="x", temperature=0, k=16).k == 1
    greedy = resolve(sets=["evaluation.temperature=0", "evaluation.num_samples=8"]).evaluation
    assert (greedy.temperature, greedy.num_samples) == (0, 1)
    assert resolve(sets=["evaluation.temperature=0.001"]).evaluation.num_samples == 16
    with pytest.raises(
        UsageError, match=r"^temperature=0.0001: must be 0, which is greedy decoding, or at least 0.001$"
    ):
        resolve(sets=["evaluation.temperature=0.0001"])
