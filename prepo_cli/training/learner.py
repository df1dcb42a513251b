"""What one process computes with: its copy or shard of the policy, the reference, the optimiser and an engine.

All processes do the same thing at the same time, each on its share; `Team` on the main process shares out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prepo_cli.distributed import build_layout
from prepo_cli.distributed.layout import Layout
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines import build_engine
from prepo_cli.engines.base import Engine, Progress, Request, Rollout
from prepo_cli.engines.hf import HfEngine
from prepo_cli.errors import UsageError
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import Policy, ScoreBatch, Scores
from prepo_cli.policy.scoring import pad_rows, spans_mask
from prepo_cli.policy.tensors import full_state, tie
from prepo_cli.sections import RunConfig
from prepo_cli.training import checkpoint
from prepo_cli.training.loss import LossOptions, aggregate, token_loss
from prepo_cli.training.mismatch import correction
from prepo_cli.training.sample import Trainee
from strategies.types import FloatArray, derive_seed

Sums = dict[str, float]
"""Sums over tokens; keys that end in _max or _min are extremes."""


class Learner:
    """One process's part of the work. `reference` is the policy that a KL is taken to, if it is a model of its own."""

    def __init__(
        self,
        config: RunConfig,
        processes: Processes,
        policy: Policy,
        layout: Layout,
        engine: Engine,
        reference: Policy | None = None,
    ) -> None:
        self.config, self.processes, self.policy = config, processes, policy
        self.layout, self.engine, self.reference = layout, engine, reference
        training = config.training
        self.options = LossOptions(
            loss_type=training.loss_type,
            epsilon=training.epsilon,
            epsilon_high=training.epsilon_high,
            beta=training.beta,
            importance_sampling_level=training.importance_sampling_level,
            max_completion_length=training.max_completion_length,
        )

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request with this process's engine."""
        if not self.engine.shares_weights:
            return self.engine.generate(requests, progress) if requests else []
        with self.layout.gathered(), self.processes.accelerator.autocast():
            return self.engine.generate(requests, progress)

    def greedy(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Rollouts by the trainer's own weights, which an engine's are compared with."""
        with self.layout.gathered(), self.processes.accelerator.autocast():
            return HfEngine(self.policy, self.config.engine.max_batch_tokens).generate(requests)

    def score(self, batches: Sequence[ScoreBatch], of_reference: bool = False) -> list[Scores]:
        """Log-probs (and entropies) of each batch, under the policy or the reference."""
        policy, adapter = self.policy, None
        if of_reference and self.reference is not None:
            policy = self.reference
        elif of_reference:
            adapter = self.policy.adapter
        off = nullcontext() if adapter is None else adapter.disable_adapter()
        with off, self.processes.accelerator.autocast():
            scores = [policy.score_batch(batch) for batch in batches]
        self.layout.reshard(policy)
        return scores

    def step(self, micro_batches: Sequence[Sequence[Trainee]], over: float, learning_rate: float, step: int) -> Sums:
        """One optimiser step; every process has as many micro-batches. Returns this process's sums."""
        self.engine.sleep()
        torch.manual_seed(derive_seed(self.config.seed, "torch", step, self.processes.index))
        self.layout.trained.train()
        sums: Sums = {}
        for number, batch in enumerate(micro_batches, start=1):
            with self.layout.micro_batch(last=number == len(micro_batches)):
                sums = add_sums(sums, self._micro_batch(list(batch), over))
        return sums | {"grad_norm_max": self.layout.step(learning_rate)}

    def sync(self) -> None:
        """Hand the policy's weights to the engine; every process of a sharded policy takes part."""
        if not self.engine.shares_weights:
            self.engine.sync(self.policy.named_weights())

    def save(self, folder: str) -> None:
        """Model (adapters alone, where there are any) and optimiser for a checkpoint; the main process writes."""
        writes = self.processes.is_main
        adapter = self.policy.adapter
        state = full_state(self.policy.model, writes) if adapter is None else full_state(adapter, writes, "lora_")
        moments = self.layout.optimizer_state(writes)
        if writes:
            checkpoint.write_model(Path(folder) / "model", self.policy, state)
            checkpoint.write_optimizer(Path(folder), moments)

    def export(self, folder: str) -> None:
        """The whole model in the hub's format, adapters merged; the main process writes."""
        writes = self.processes.is_main
        if self.policy.adapter is None:
            state = full_state(self.policy.model, writes)
        else:
            state = {name: weight.cpu() for name, weight in self.policy.named_weights() if writes}
            tie(self.policy.model, state)
        if writes:
            checkpoint.export_model(Path(folder), self.policy, state)

    def _micro_batch(self, batch: list[Trainee], over: float) -> Sums:
        device = self.policy.device
        filler = not batch
        if filler:
            batch = [Trainee.filler(self.policy.pad_token_id, self.config.training.beta > 0)]
        ids, mask = pad_rows([t.ids for t in batch], self.policy.pad_token_id, device)
        chosen = spans_mask([t.span for t in batch], ids.shape[1], device)
        heat = torch.tensor([t.temperature for t in batch], dtype=torch.float32, device=device)
        with self.processes.accelerator.autocast():
            logprob_M, _ = self.layout.trained(ids, mask, chosen, heat)
        sequence_M = chosen.nonzero(as_tuple=True)[0]
        factor_M = _flat([t.factor_T for t in batch], device)
        engine_M = _flat([t.engine_logprob_T for t in batch], device)
        old_M = _optional([t.old_logprob_T for t in batch], device)
        reference_M = _optional([t.reference_logprob_T for t in batch], device)
        before_M = logprob_M.detach() if old_M is None else old_M
        corrected = correction(before_M, engine_M, sequence_M, self.config.engine, self.engine.exact_logprobs)
        result = token_loss(logprob_M, before_M, factor_M * corrected.weight_M, sequence_M, self.options, reference_M)
        # Gradients are averaged over processes; the divisor is already that of all of them.
        loss = aggregate(result.loss_M, sequence_M, self.options) / over * self.processes.count
        if filler:
            loss = loss * 0.0
        self.layout.backward(loss)
        if filler:
            return {}
        sums = {
            "loss": loss.item() / self.processes.count,
            "clip_ratio/low": result.clipped_low_M.sum().item(),
            "clip_ratio/high": result.clipped_high_M.sum().item(),
            **corrected.sums,
        }
        return sums | ({"kl": result.kl_M.sum().item()} if reference_M is not None else {})


def build_learner(config: RunConfig, processes: Processes, resume_from: Path | None) -> Learner:
    """Load and place everything that a process computes with; `resume_from` is a checkpoint."""
    training = config.training
    model, adapters = config.model, None
    if resume_from is not None and model.use_peft:
        adapters = resume_from / "model"
    elif resume_from is not None:
        model = model.model_copy(update={"model_name_or_path": str(resume_from / "model"), "revision": None})
    # A model that is to be sharded never stands whole on a GPU.
    device = torch.device("cpu") if processes.sharded else processes.device
    policy = load_policy(model, train=True, device=device, adapters=adapters, seed=config.seed)
    own_reference = training.beta > 0 and policy.adapter is None
    reference = load_policy(config.model, device=device) if own_reference else None
    layout = build_layout(policy, processes, training)
    if reference is not None:
        layout.place_reference(reference)
    if resume_from is not None:
        layout.load_optimizer_state(checkpoint.read_optimizer(resume_from))
    engine = build_engine(
        config.engine,
        policy,
        config.model.model_copy(update={"dtype": config.compute_dtype}),
        max_context=longest_prompt(config, policy) + training.max_completion_length,
        seed=config.seed,
        sync_dir=Path(config.output_dir) / "sync",
        num_processes=processes.count,
        is_main=processes.is_main,
    )
    return Learner(config, processes, policy, layout, engine, reference)


def longest_prompt(config: RunConfig, policy: Policy) -> int:
    """Tokens of the longest prompt that is taken.

    Raises:
        UsageError: completions leave no room for a prompt.
    """
    context, completion = policy.max_context, config.training.max_completion_length
    room = config.data.max_prompt_length
    if context is not None:
        room = min(room, context - completion)
    if room < 1:
        raise UsageError(
            f"training.max_completion_length={completion} leaves no room for a prompt in the model's context of "
            f"{context} tokens; set a smaller one"
        )
    return room


def add_sums(total: Sums, more: Sums) -> Sums:
    """Sums added, extremes joined."""
    joined = dict(total)
    for key, value in more.items():
        if key not in joined:
            joined[key] = value
        elif key.endswith("_max"):
            joined[key] = max(joined[key], value)
        elif key.endswith("_min"):
            joined[key] = min(joined[key], value)
        else:
            joined[key] += value
    return joined


def _flat(parts: Sequence[FloatArray], device: Any) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(device)


def _optional(parts: Sequence[FloatArray | None], device: Any) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return _flat(known, device) if known else None
