"""DeepSpeed's ZeRO: its precision, its configuration, its start; that it does the run of one is in test_processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from prepo_cli.distributed.processes import Processes
from prepo_cli.distributed.zero import check_precision, zero_config
from prepo_cli.errors import UsageError
from prepo_cli.sections import TrainingConfig
from tests.metrics import timeless
from tests.models import make_policy, save_model
from tests.training.launching import ROOT, command, interrupted, launch, needs_deepspeed, replay

pytestmark = needs_deepspeed


def test_bfloat16_goes_on_bit_for_bit_and_keeps_float32_masters(tmp_path: Path) -> None:
    """Also with a partitioned reference."""
    sets = ["recipe=random", "training.mixed_precision=bf16", "training.beta=0.1"]
    whole = replay(tmp_path / "whole", "zero3", sets)
    again = interrupted(whole, tmp_path / "again", after=2)
    replay(again, "zero3", sets, resume=True)
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (whole, again))
    assert all((theirs[name] == weight).all() for name, weight in ours.items())
    assert any((weight != weight.bfloat16().float()).any() for weight in ours.values())
    assert timeless(whole) == timeless(again)
    assert timeless(whole)[0]["kl"] == pytest.approx(0.0, abs=1e-6), "policy and reference are rounded alike"


def test_from_the_command_line_through_accelerate(tmp_path: Path) -> None:
    """Rollouts of whole weights from the real engine, evaluation, tied embeddings; nothing but JSON on the output."""
    model = save_model("qwen2", tmp_path / "model")
    sets = ["training.prompts_per_step=3", "training.total_steps=2", "evaluation.dataset_name=embedded",
            "evaluation.limit=1", "evaluation.num_samples=2"]  # fmt: skip
    more = [part for item in sets for part in ("--set", item)]
    config = ["--config_file", str(ROOT / "examples" / "accelerate" / "zero3.yaml")]
    done = launch(command(tmp_path / "run", model, *more, "--json"), 2, config, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["cost"]["rollouts_total"] == 2 * 3 * 4
    assert "parameters on cpu:0 in 2 processes" in done.stderr
    weights = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert all(weight.numel() for weight in weights.values()), "no partition was saved in a parameter's place"


def test_a_start_without_a_launcher_is_one_line(tmp_path: Path) -> None:
    done = launch(command(tmp_path / "run", tmp_path), 1, ACCELERATE_USE_DEEPSPEED="true")
    assert done.returncode == 2
    assert "start with accelerate launch or torchrun" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_kinds_of_sharding_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="DeepSpeed and FSDP are both requested; choose one"):
        Processes(TrainingConfig(fsdp=True))


def configured(monkeypatch: pytest.MonkeyPatch, folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps(document))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    return zero_config(TrainingConfig(max_grad_norm=0.7, mixed_precision="bf16"), 4)


def test_what_the_users_file_sets_is_kept_and_the_rest_is_prepos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    zero_optimization = {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 1e6}
    document = {"zero_optimization": zero_optimization, "train_batch_size": "auto", "gradient_clipping": "auto",
                "gradient_accumulation_steps": 16, "bf16": {"enabled": "auto"}, "prescale_gradients": True}  # fmt: skip
    config = configured(monkeypatch, tmp_path, document)
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["sub_group_size"] == 1e6
    assert "reduce_bucket_size" not in config["zero_optimization"]
    assert config["prescale_gradients"] is True
    assert config["gradient_clipping"] == 0.7
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (4, 1)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"zero_optimization": {"stage": 0}}, "zero_stage is 0; set 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}, "section 'optimizer'; remove it"),
        ({"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}}, "section 'scheduler'; remove it"),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, "enables fp16; use training.mixed_precision"),
        ({}, "DeepSpeed's configuration: "),
    ],
)
def test_what_prepo_decides_is_refused(
    document: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        configured(monkeypatch, tmp_path, document)


def test_weights_that_have_no_float32_masters_are_refused() -> None:
    model = make_policy().model
    check_precision(model, half=False)
    check_precision(model, half=True)
    frozen, *_ = model.parameters()
    frozen.requires_grad_(False).data = frozen.data.bfloat16()
    check_precision(model, half=True)
    with pytest.raises(UsageError, match="the same precision for all weights"):
        check_precision(model, half=False)
    frozen.requires_grad_(True)
    with pytest.raises(UsageError, match="trains float32 master weights"):
        check_precision(model, half=True)
