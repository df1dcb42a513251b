"""DeepSpeed's ZeRO on two processes over gloo: the run of one process, checkpoints included; its configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from prepo_cli.errors import UsageError
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.processes import Processes
from prepo_cli.training.zero import check_precision, zero_config
from tests.models import make_policy, save_model
from tests.training.launching import RECIPES, ROOT, assert_same_run, command, interrupted, launch, metrics, replay

# Where a gradient is all rounding, AdamW's first steps divide it by itself; a larger epsilon lets it count for nothing.
STEADY = ["training.adam_epsilon=1e-6"]
LORA = ["recipe=random", "model.use_peft=true", "model.lora_r=4", "training.beta=0.1",
        "training.mini_batch_prompts=3", "training.num_iterations=2", "training.learning_rate=2e-4"]  # fmt: skip
CHUNK = 652 * 40
"""Logits of 40 tokens of the embedded model: batches differ in how often they go through the output matrix."""


def zero(folder: Path, stage: int, sets: list[str], **options: Any) -> Path:
    return replay(
        folder,
        2,
        [*STEADY, *sets],
        chunk_elements=CHUNK,
        ACCELERATE_USE_DEEPSPEED="true",
        ACCELERATE_DEEPSPEED_ZERO_STAGE=str(stage),
        **options,
    )


def one(folder: Path, sets: list[str], **options: Any) -> Path:
    return replay(folder, 1, [*STEADY, *sets], chunk_elements=CHUNK, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folder of a finished run by stage, 0 for one process; each is done once."""

    @cache
    def finished(stage: int) -> Path:
        folder = tmp_path_factory.mktemp("zero") / str(stage)
        return zero(folder, stage, RECIPES["greso-e3"]) if stage else one(folder, RECIPES["greso-e3"])

    return finished


def test_stage_3_does_the_run_of_one_process(runs: Callable[[int], Path]) -> None:
    assert any(abs(line["loss"]) > 1e-3 for line in metrics(runs(0)))
    assert_same_run(runs(0), runs(3))


def test_stage_2_does_the_run_of_one_process(tmp_path: Path) -> None:
    assert_same_run(one(tmp_path / "one", RECIPES["prepo"]), zero(tmp_path / "two", 2, RECIPES["prepo"]))


def test_adapters_and_mini_batches(tmp_path: Path) -> None:
    alone = one(tmp_path / "one", LORA)
    assert metrics(alone)[-1]["kl"] > 1e-6
    assert_same_run(alone, zero(tmp_path / "two", 3, LORA))


@pytest.mark.parametrize(("before", "after"), [(3, 0), (0, 1)])
def test_a_checkpoint_goes_on_in_another_layout(
    before: int, after: int, runs: Callable[[int], Path], tmp_path: Path
) -> None:
    started = interrupted(runs(before), tmp_path / "run", after=2)
    if after:
        zero(started, after, RECIPES["greso-e3"], resume=True)
    else:
        one(started, RECIPES["greso-e3"], resume=True)
    assert_same_run(runs(0), started)


def test_bfloat16_goes_on_bit_for_bit_and_keeps_float32_masters(tmp_path: Path) -> None:
    """Also with a partitioned reference."""
    sets = ["recipe=random", "training.mixed_precision=bf16", "training.beta=0.1"]
    whole = zero(tmp_path / "whole", 3, sets)
    again = interrupted(whole, tmp_path / "again", after=2)
    zero(again, 3, sets, resume=True)
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (whole, again))
    assert all((theirs[name] == weight).all() for name, weight in ours.items())
    assert any((weight != weight.bfloat16().float()).any() for weight in ours.values())
    first, kept = ({k: v for k, v in metrics(f)[-1].items() if "timing" not in k} for f in (whole, again))
    assert {k: v for k, v in first.items() if k != "cost/seconds"} == {
        k: v for k, v in kept.items() if k != "cost/seconds"
    }
    assert metrics(whole)[0]["kl"] == pytest.approx(0.0, abs=1e-6), "policy and reference are rounded alike"


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
    with pytest.raises(UsageError, match="DeepSpeed and FSDP were both asked for"):
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
    assert config["bf16"] == {"enabled": True}
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (4, 1)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"zero_optimization": {"stage": 0}}, "zero_stage is 0; set 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}, "section 'optimizer'; drop it"),
        ({"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}}, "section 'scheduler'; drop it"),
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
    with pytest.raises(UsageError, match="one precision for all weights"):
        check_precision(model, half=False)
    frozen.requires_grad_(True)
    with pytest.raises(UsageError, match="trains float32 masters"):
        check_precision(model, half=True)
