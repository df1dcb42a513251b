"""The policy sharded over processes with torch's `fully_shard` (FSDP2): weights, gradients and optimizer state.

Each decoder block is one unit; embeddings, norms and output matrix form another. The same code runs on GPUs and, over
gloo, on CPUs, where it is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from prepo_cli.distributed.layout import Layout, adamw
from prepo_cli.policy.policy import Policy, ScoreBatch


class FullyShard(Layout):
    """Weights, gradients and optimizer state sharded by torch's `fully_shard` (FSDP2)."""

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._shard(self.policy)
        return self.policy.scorer, adamw(self.parameters, self.training)

    def _shard(self, policy: Policy) -> None:
        processes = self.processes
        shard(policy.scorer, processes.count, processes.device, self.training.mixed_precision)
        policy.device = processes.device
        policy.scorer.shares_prefixes = False
        # `fully_shard` links the units to the root in the root's first forward pass, so that pass is made here.
        policy.score_batch(ScoreBatch([[policy.pad_token_id] * 2], [(1, 2)], [1.0]))
        self.reshard(policy)

    def place_reference(self, reference: Policy) -> None:
        self._shard(reference)

    def gathered(self) -> AbstractContextManager[None]:
        return unsharded(self.policy.scorer)

    def reshard(self, policy: Policy) -> None:
        # After a pass without gradients the root keeps its gathered weights, which the next step would make stale.
        if isinstance(policy.scorer, FSDPModule):
            policy.scorer.reshard()

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()  # reduce at once: accumulating unsharded gradients would undo sharding


def shard(scorer: nn.Module, count: int, device: torch.device, mixed_precision: str) -> None:
    """Shard a `TokenScorer` in place over `count` processes; parameters become DTensors on `device`."""
    mesh = init_device_mesh(device.type, (count,))
    half = torch.bfloat16 if mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    # The scorer's inputs include temperatures, which must not be rounded.
    root_policy = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=False)
    model: Any = scorer.model
    units = set(model._no_split_modules or ())
    for module in [m for m in model.modules() if type(m).__name__ in units]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(scorer, mesh=mesh, mp_policy=root_policy)


@contextmanager
def unsharded(scorer: nn.Module) -> Iterator[None]:
    """A context in which every process holds all weights, so the model can be called without collectives."""
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
