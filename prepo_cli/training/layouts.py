"""How the policy lies over the processes, and how its gradients become an optimiser step there.

A copy in every process (DDP), sharded by torch (`FullyShard`), or by DeepSpeed (`Zero`, in zero.py). Whichever it is,
the optimiser's state is saved whole and by parameter name, so a run goes on in another layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prepo_cli.models import Policy, ScoreBatch
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.processes import FSDP, ZERO, Processes
from prepo_cli.training.sharding import full, load_optimizer_state, optimizer_state, reshard, shard, whole


class Replicated:
    """A whole copy in every process; gradients are averaged over them (DDP)."""

    def __init__(self, policy: Policy, processes: Processes, training: TrainingConfig) -> None:
        self.policy, self.processes, self.training = policy, processes, training
        self.trained, self.optimizer = self._place()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for p in self.policy.model.parameters() if p.requires_grad]

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The scorer as it is called for gradients, and the optimiser of its parameters."""
        return self.processes.accelerator.prepare_model(self.policy.scorer), adamw(self.parameters, self.training)

    def place_reference(self, reference: Policy) -> None:
        """Make a second model, which is never trained, lie as this one does."""

    def whole(self) -> AbstractContextManager[None]:
        """All weights in every process for as long as it takes, so that the model can be called without collectives."""
        return nullcontext()

    def rest(self, policy: Policy) -> None:
        """Let go of what a pass without gradients leaves behind."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; `last` is that before the optimiser's step."""
        return nullcontext() if last else self.processes.accelerator.no_sync(self.trained)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        self.processes.accelerator.backward(loss)

    def step(self, learning_rate: float) -> float:
        """One optimiser step on clipped gradients, which are gone then; returns their norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(full(norm))

    def optimizer_state(self, keep: bool) -> dict[str, dict[str, Any]]:
        """The optimiser's whole state by parameter name, on the CPU; empty where it is not kept."""
        return optimizer_state(self.policy.model, self.optimizer, keep)

    def load_optimizer_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what `optimizer_state` gave in any layout."""
        load_optimizer_state(self.policy.model, self.optimizer, state)


class FullyShard(Replicated):
    """Weights, gradients and optimiser state sharded by torch's `fully_shard` (FSDP2)."""

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._shard(self.policy)
        return self.policy.scorer, adamw(self.parameters, self.training)

    def _shard(self, policy: Policy) -> None:
        processes = self.processes
        shard(policy.scorer, processes.count, processes.device, self.training.mixed_precision)
        policy.device = processes.device
        # A first pass from the outermost unit tells all units that they lie within it.
        policy.score_batch(ScoreBatch([[policy.pad_token_id] * 2], [(1, 2)], [1.0]))
        reshard(policy.scorer)

    def place_reference(self, reference: Policy) -> None:
        self._shard(reference)

    def whole(self) -> AbstractContextManager[None]:
        return whole(self.policy.scorer)

    def rest(self, policy: Policy) -> None:
        reshard(policy.scorer)

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()  # gradients are reduced at once: whole ones would take the memory that sharding saves


def build_layout(policy: Policy, processes: Processes, training: TrainingConfig) -> Replicated:
    """The layout that was asked for, with the policy placed in it."""
    if processes.layout == ZERO:
        from prepo_cli.training.zero import Zero

        return Zero(policy, processes, training)
    kind = FullyShard if processes.layout == FSDP else Replicated
    return kind(policy, processes, training)


def adamw(parameters: Sequence[nn.Parameter], training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of what is trained."""
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )
