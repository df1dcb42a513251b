"""LoRA adapters through peft: trained and saved alone, merged for export and for engines.

Adapters are added to the model in place, so scoring and decoding see an ordinary causal LM. The reference model is the
same model with its adapters disabled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prepo_cli.errors import UsageError
from prepo_cli.policy.tensors import full_tensor
from prepo_cli.sections import ModelConfig
from strategies.types import derive_seed

BASE = ".base_layer"
ADAPTERS = "adapter"
"""The folder in an exported model that holds the adapters alone."""


def add_adapters(model: Any, config: ModelConfig, saved: Path | None, seed: int) -> Any:
    """Add fresh adapters (or those of a checkpoint) to the model; returns the peft model around it.

    Fresh ones depend on the seed alone, so they are the same in all processes.

    Raises:
        UsageError: peft is not installed, or the target modules match no layer or one that is not linear.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("model.use_peft needs peft, which is not installed; run: pip install 'prepo[peft]'") from error
    if saved is not None:
        return peft.PeftModel.from_pretrained(model, str(saved), is_trainable=True)
    settings = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]):  # the model is still on the CPU
            torch.manual_seed(derive_seed(seed, "adapters"))
            wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UsageError(f"model.lora_target_modules={config.lora_target_modules!r}: {error}") from error
    for name, layer in model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer) and not isinstance(layer, peft.tuners.lora.Linear):
            raise UsageError(f"model.lora_target_modules: '{name}' is not a linear layer; choose only linear layers")
    return wrapped


def export_adapters(folder: Path, adapter: Any, state: Mapping[str, Tensor], base: str) -> None:
    """Write adapters as peft loads them; `base` is the model that they belong to, as the user named it."""
    adapter.active_peft_config.base_model_name_or_path = base  # peft records the folder on this machine
    adapter.save_pretrained(folder, state_dict=state)
    (folder / "README.md").unlink(missing_ok=True)  # a card to fill in; the model has its own


def hub_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Unsharded weights under the hub's names, adapters merged, the output matrix included even if it is tied.

    Every process of a sharded model must consume all of it.
    """
    from transformers.pytorch_utils import Conv1D

    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner = next((part for part in _owners(name) if part in layers), None)
        if owner is None:
            yield name, full_tensor(tensor)
            continue
        inside = name[len(owner) :]
        if not inside.startswith(BASE):
            continue
        weight = full_tensor(tensor)
        if inside == f"{BASE}.weight":
            delta = _delta(layers[owner])
            transposed = isinstance(layers[owner].get_base_layer(), Conv1D)
            weight = (weight.float() + (delta.T if transposed else delta)).to(weight.dtype)
        yield owner + inside.removeprefix(BASE), weight


def _delta(layer: Any) -> Tensor:
    """What a layer's active adapters add to its weight [out, in], in float32."""
    with torch.no_grad():
        parts = [
            full_tensor(layer.lora_B[name].weight).float()
            @ full_tensor(layer.lora_A[name].weight).float()
            * layer.scaling[name]
            for name in layer.active_adapters
        ]
        return torch.stack(parts).sum(dim=0)


def _owners(name: str) -> Iterator[str]:
    """The names of the modules that contain a parameter, innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
