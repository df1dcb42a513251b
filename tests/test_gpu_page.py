"""docs/gpu.md: its table of memory against the architectures and autograd, its settings and files against the tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from benchmarks.memory_table import MODELS, Setting, Shape, Weights, activations, markdown, peak
from prepo_cli.policy.output_matrix import CHUNK_ELEMENTS
from prepo_cli.sections import RunConfig, TrainingConfig

FAMILIES: dict[str, type[PreTrainedConfig]] = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
ROOT = Path(__file__).parents[1]
GPU_PAGE = (ROOT / "docs" / "gpu.md").read_text()


def model_of(shape: Shape) -> Any:
    return AutoModelForCausalLM.from_config(
        FAMILIES[shape.family](
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_width,
            tie_word_embeddings=shape.tied,
        )
    )


@pytest.mark.parametrize("shape", MODELS, ids=lambda shape: shape.name)
def test_parameters_are_those_of_the_architecture(shape: Shape) -> None:
    with torch.device("meta"):
        model = model_of(shape)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == pytest.approx(shape.parameters, rel=0.01)
    head = model.get_output_embeddings()
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    assert shape.adapters(8) == sum(8 * (matrix.in_features + matrix.out_features) for matrix in matrices)


def saved_bytes(shape: Shape, weights: Weights, tokens: int, checkpointing: bool) -> int:
    """What autograd keeps of a forward pass besides weights and autocast's copies of them."""
    model = model_of(shape).to(getattr(torch, weights)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, shape.vocabulary, (1, tokens))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=weights == "float32"),
    ):
        model.model(input_ids=ids, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_are_what_autograd_keeps(family: Any, weights: Weights, checkpointing: bool) -> None:
    """Of two more layers, so that what lies before and behind the layers does not count."""
    tokens = 509

    def shape(layers: int) -> Shape:
        return Shape("small", family, layers, 256, 1024, 4, 2, 64, 128, True)

    kept = [saved_bytes(shape(layers), weights, tokens, checkpointing) for layers in (2, 4)]
    computed = [activations(shape(layers), weights, tokens, checkpointing) for layers in (2, 4)]
    assert computed[1] - computed[0] == pytest.approx(kept[1] - kept[0], rel=0.02)


def test_sharding_and_adapters_only_ever_save() -> None:
    for shape in MODELS:
        for weights in ("float32", "bfloat16"):
            one, ddp, sharded = (peak(shape, weights, spread, Setting()) for spread in ("one", "ddp", "fsdp2"))
            lora = peak(shape, weights, "one", Setting(), lora=True)
            assert sharded.update < one.update < ddp.update
            assert lora.update < one.update and lora.generation < one.generation
            assert peak(shape, weights, "fsdp2", Setting(gpus=16)).update < sharded.update
            assert peak(shape, weights, "one", Setting(tokens=8192)).update <= one.update


def test_adamw_takes_sixteen_bytes_a_float32_parameter_besides_the_step() -> None:
    shape = MODELS[3]
    setting = Setting(tokens=1, sequences=1, context=1)
    kept = peak(shape, "float32", "one", setting).generation - 2 * shape.parameters - shape.kv_cache()
    assert kept == 12 * shape.parameters, "weights and two moments; gradients are gone while vLLM generates"


def test_the_table_knows_the_trainer() -> None:
    from benchmarks import memory_table

    assert memory_table.CHUNK_ELEMENTS == CHUNK_ELEMENTS
    assert Setting().tokens == TrainingConfig().max_tokens_per_micro_batch


def test_the_page_holds_what_the_script_prints() -> None:
    assert f"<!-- memory table -->\n\n{markdown(Setting())}\n\n<!-- end of memory table -->" in GPU_PAGE


def test_every_setting_on_the_page_exists() -> None:
    named = re.findall(r"\b(model|data|training|engine|evaluation|reporting)\.([a-z][a-z0-9_]+)", GPU_PAGE)
    assert len(named) > 25
    for section, key in named:
        assert key in RunConfig.model_fields[section].annotation.model_fields, f"{section}.{key}"


def test_every_file_that_the_page_names_exists() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", GPU_PAGE) + [
        f"../{path}" for path in re.findall(r"(?:examples|benchmarks)/[\w./-]+\.(?:yaml|py|sbatch)", GPU_PAGE)
    ]
    assert len(linked) > 8
    for path in linked:
        assert (ROOT / "docs" / path).is_file(), path


def test_page_and_script_start_the_server_with_the_same_flags() -> None:
    def flags(text: str) -> set[str]:
        return set(re.findall(r"--[a-z][a-z-]+", text))

    page = GPU_PAGE.split("vllm serve ")[1].split("curl")[0]
    batch_script = (ROOT / "examples" / "slurm" / "train_and_serve.sbatch").read_text()
    script = batch_script.split("exec vllm serve")[1].split("}\n")[0]
    assert len(flags(page)) == 7
    assert flags(page) == flags(script)
    assert "VLLM_SERVER_DEV_MODE=1" in GPU_PAGE
