"""How the policy is laid out over the processes, and how an optimizer step is taken in that layout.

`Replicated` keeps a copy in every process (DDP); fsdp.py shards with torch's `fully_shard`, zero.py with DeepSpeed.
The optimizer's state is always saved unsharded and by parameter name, so a run can resume in another layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from prepo_cli.distributed.processes import Processes
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.tensors import full_tensor, local_tensor
from prepo_cli.sections import TrainingConfig

OptimizerState = dict[str, dict[str, Any]]
"""The optimizer's state by parameter name: unsharded tensors on the CPU."""


class Layout(ABC):
    """A policy placed over the processes, with its optimizer; the constructor places it.

    `trained` is the scorer, wrapped as the layout requires, to call where gradients are needed. Methods that work with
    any torch optimizer are implemented here.
    """

    trained: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, policy: Policy, processes: Processes, training: TrainingConfig) -> None:
        self.policy, self.processes, self.training = policy, processes, training
        self.trained, self.optimizer = self._place()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.policy.model.parameters() if p.requires_grad]

    @abstractmethod
    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Place the policy; returns `trained` and `optimizer`."""

    @abstractmethod
    def place_reference(self, reference: Policy) -> None:
        """Place a second model, which is never trained, in the same way."""

    @abstractmethod
    def gathered(self) -> AbstractContextManager[None]:
        """A context in which every process holds all weights, so the model can be called without collectives."""

    @abstractmethod
    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """A context around forward and backward of one micro-batch; `last` marks the one before the optimizer step."""

    def reshard(self, policy: Policy) -> None:  # noqa: B027  (only some layouts shard)
        """Free the gathered weights that a pass without gradients leaves behind."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the loss's gradients."""
        self.processes.accelerator.backward(loss)

    def step(self, learning_rate: float) -> float:
        """One optimizer step on clipped gradients, then clear them; returns their norm before clipping.

        No step is taken, in any process, if the norm isn't finite: weights and optimizer stay as they are.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)))
        if isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def finite(self) -> bool:
        """Whether this process's share of the updated weights is finite."""
        return isfinite(torch.nn.utils.get_total_norm([local_tensor(weight) for weight in self.optimizer.state]))

    def optimizer_state(self, keep: bool) -> OptimizerState:
        """The unsharded optimizer state; every process must call this; those that don't `keep` it get an empty one."""
        state: OptimizerState = {}
        for name, parameter in self.policy.model.named_parameters():
            entry = self.optimizer.state.get(parameter)
            if entry:
                full = {key: full_tensor(v) if isinstance(v, Tensor) else v for key, v in entry.items()}
                if keep:
                    state[name] = {key: v.cpu() if isinstance(v, Tensor) else v for key, v in full.items()}
        return state

    def load_optimizer_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `optimizer_state` returned in any layout."""
        for name, parameter in self.policy.model.named_parameters():
            if name in state:
                self.optimizer.state[parameter] = {key: _placed(v, parameter) for key, v in state[name].items()}


class Replicated(Layout):
    """A full copy in every process; gradients are averaged over them (DDP)."""

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self.processes.accelerator.prepare_model(self.policy.scorer), adamw(self.parameters, self.training)

    def place_reference(self, reference: Policy) -> None:
        """Nothing to do: every process has loaded a full copy."""

    def gathered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.processes.accelerator.no_sync(self.trained)


def adamw(parameters: Sequence[nn.Parameter], training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of the trained parameters."""
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )


def _placed(value: Any, parameter: Tensor) -> Any:
    """A copy placed like the parameter, since files are memory-mapped; AdamW's step count stays on the CPU."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.clone()
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to import

    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)
