"""Whole tensors of a policy that may lie sharded over processes, by `fully_shard` or by ZeRO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor of all processes together; every process must ask."""
    if hasattr(tensor, "ds_id") or (hasattr(tensor, "_hp_mapping") and tensor.dtype != torch.float32):
        return _of_partitions(tensor)
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def size(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, of which this process may hold a part."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_state(model: nn.Module, keep: bool, mark: str = "") -> dict[str, Tensor]:
    """The model's state dict (names with `mark` only), full tensors on the CPU, tied ones shared; empty if not kept."""
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if mark in name:
            gathered = full_tensor(tensor)
            if keep:
                state[name] = gathered.cpu()
    tie(model, state)
    return state


def tie(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Let entries whose parameter is one and the same share one tensor, as the hub's format expects of tied weights."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        kept = first.setdefault(id(tensor), name)
        if name in state:
            state[name] = state[kept]


def _of_partitions(tensor: Any) -> Tensor:
    """The whole of a parameter or buffer, float32 where DeepSpeed keeps a master; every process must ask."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    master: Tensor | None = safe_get_full_fp32_param(tensor)
    if master is not None:
        return master.detach()
    with zero.GatheredParameters([tensor]):
        whole: Tensor = tensor.detach().clone()
    return whole
