"""The policy sharded over processes with torch's `fully_shard` (FSDP2): weights, gradients and optimiser state.

Each decoder block is a unit, the rest (embeddings, norms, output matrix) another. It is the same code on GPUs and,
over gloo, on CPUs, where it is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(scorer: nn.Module, count: int, device: torch.device, mixed_precision: str) -> None:
    """Shard a `TokenScorer` in place over `count` processes; parameters become DTensors on `device`."""
    mesh = init_device_mesh(device.type, (count,))
    half = torch.bfloat16 if mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    # The scorer is also given temperatures, which no cast may round.
    outer = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=False)
    model: Any = scorer.model
    units = set(model._no_split_modules or ())
    for module in [m for m in model.modules() if type(m).__name__ in units]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(scorer, mesh=mesh, mp_policy=outer)


@contextmanager
def whole(scorer: nn.Module) -> Iterator[None]:
    """All weights on every process for as long as it takes, so that the model can be called without collectives."""
    units = [module for module in scorer.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not scorer, recurse=False)
            unit.reshard()


def reshard(scorer: nn.Module) -> None:
    """Let go of the outermost unit's whole weights, which a pass without gradients leaves behind and would go stale."""
    if isinstance(scorer, FSDPModule):
        scorer.reshard()


def full(tensor: Tensor) -> Tensor:
    """The tensor of all processes together; every process must ask."""
    if hasattr(tensor, "ds_id") or (hasattr(tensor, "_hp_mapping") and tensor.dtype != torch.float32):
        from prepo_cli.training.zero import gathered

        return gathered(tensor)
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
            gathered = full(tensor)
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


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, dict[str, Any]]:
    """The optimiser's state by parameter name, full tensors on the CPU: the same from any number of processes."""
    state: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        entry = optimizer.state.get(parameter)
        if entry:
            gathered = {key: full(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
            if keep:
                state[name] = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in gathered.items()}
    return state


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Take over what `optimizer_state` gave, however many processes there were then."""
    for name, parameter in model.named_parameters():
        if name in state:
            optimizer.state[parameter] = {key: _like(value, parameter) for key, value in state[name].items()}


def _like(value: Any, parameter: Tensor) -> Any:
    """Moments lie as their parameter does; AdamW's count of steps stays on the CPU. Mapped memory is left behind."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.clone()
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)
