"""Full tensors of a policy that `fully_shard` or ZeRO may have sharded over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def full_tensor(tensor: Tensor) -> Tensor:
    """The unsharded tensor; a collective, which every process must call."""
    if hasattr(tensor, "ds_id") or (hasattr(tensor, "_hp_mapping") and tensor.dtype != torch.float32):
        return _gathered(tensor)
    from torch.distributed.tensor import DTensor  # slow to import, and not needed for rollouts

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """This process's share of a tensor that `fully_shard` may have sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def size(parameter: nn.Parameter) -> int:
    """Number of elements of the unsharded parameter."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_state(model: nn.Module, keep: bool, mark: str = "") -> dict[str, Tensor]:
    """The unsharded state dict on the CPU, tied tensors shared; a collective.

    Only names that contain `mark` are gathered; processes that don't `keep` it get an empty one.
    """
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if mark in name:
            gathered = full_tensor(tensor)
            if keep:
                state[name] = gathered.cpu()
    tie(model, state)
    return state


def tie(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Let entries of the same parameter share one tensor, as the hub's format expects of tied weights."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        kept = first.setdefault(id(tensor), name)
        if name in state:
            state[name] = state[kept]


def _gathered(tensor: Any) -> Tensor:
    """A parameter or buffer that ZeRO has partitioned, gathered; in float32 if DeepSpeed keeps a master copy."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    master: Tensor | None = safe_get_full_fp32_param(tensor)
    if master is not None:
        return master.detach()
    with zero.GatheredParameters([tensor]):
        copy: Tensor = tensor.detach().clone()
    return copy
