"""What one process computes with: its copy or shard of the policy, the reference, the optimizer and an engine.

Every process has one and runs the same methods at the same time on different data; `Team`, on the main process,
splits the work. build.py builds it from a configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import isfinite, nan
from pathlib import Path

import torch

from prepo_cli.distributed.layout import Layout
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Engine, Finished, Request, Rollout
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.adapters import ADAPTERS, export_adapters
from prepo_cli.policy.plans import Arrangement
from prepo_cli.policy.policy import Policy, ScoreBatch, Scores
from prepo_cli.policy.tensors import full_state, tie
from prepo_cli.sections import RunConfig
from prepo_cli.training import checkpoint
from prepo_cli.training.batch_loss import BatchLoss
from prepo_cli.training.loss import LossOptions
from prepo_cli.training.sample import MicroBatch, TrainingSample
from prepo_cli.training.update_stats import SkippedSample, UpdateStats
from strategies.types import derive_seed

Computed = tuple[Sequence[TrainingSample], torch.Tensor, torch.Tensor]
"""A micro-batch's samples, and the log-probs and losses [M] of all their tokens."""


class Learner:
    """One process's share of the computation.

    `reference` is a separate policy, if the KL term needs one. `frozen_weights` is the digest of the weights that no
    checkpoint holds: those of the reference, or of the base of adapters.
    """

    def __init__(
        self,
        config: RunConfig,
        processes: Processes,
        policy: Policy,
        layout: Layout,
        engine: Engine,
        reference: Policy | None = None,
        frozen_weights: str | None = None,
    ) -> None:
        self.config, self.processes, self.policy = config, processes, policy
        self.layout, self.engine, self.reference = layout, engine, reference
        self.frozen_weights = frozen_weights
        self.options = LossOptions.of(config.training)

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """Rollouts of each request by this process's engine."""
        if not self.engine.shares_weights:
            return self.engine.generate(requests, finished) if requests else []
        with self.layout.gathered(), self.processes.accelerator.autocast():
            return self.engine.generate(requests, finished)

    def decode(self, token_ids: list[int]) -> str:
        """A completion as text, without special tokens."""
        return str(self.policy.tokenizer.decode(token_ids, skip_special_tokens=True))

    def greedy(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Rollouts by the trainer's own weights, to check an engine against."""
        with self.layout.gathered(), self.processes.accelerator.autocast():
            return HfEngine(self.policy, self.config.engine.max_batch_tokens).generate(requests)

    def score(self, batches: Sequence[ScoreBatch], of_reference: bool) -> list[Scores]:
        """Log-probs (and entropies) of each batch under the policy or the reference."""
        policy, adapter = self.policy, None
        if of_reference and self.reference is not None:
            policy = self.reference
        elif of_reference:
            adapter = self.policy.adapter
        without_adapter = nullcontext() if adapter is None else adapter.disable_adapter()
        with without_adapter, self.processes.accelerator.autocast():
            scores = [policy.score_batch(batch) for batch in batches]
        self.layout.reshard(policy)
        return scores

    def step(
        self,
        micro_batches: Sequence[tuple[Sequence[TrainingSample], Arrangement]],
        divisor: float,
        learning_rate: float,
        step: int,
        with_entropy: bool,
    ) -> UpdateStats:
        """One optimizer step; every process has the same number of micro-batches. Returns this process's sums.

        A loss or gradient that isn't finite, in any process, makes all of them skip the step.
        """
        self.engine.sleep()
        torch.manual_seed(derive_seed(self.config.seed, "torch", step, self.processes.index))
        self.layout.trained.train()
        stats, computed = UpdateStats(), list[Computed]()
        for number, (samples, arrangement) in enumerate(micro_batches, start=1):
            with self.layout.micro_batch(last=number == len(micro_batches)):
                sums, of_tokens = self._backward(samples, arrangement, divisor, with_entropy)
            stats, computed = stats + sums, computed + of_tokens
        norm = self.layout.step(learning_rate)
        # All processes take part in the same step; only the main process counts it.
        counted = int(self.processes.is_main)
        if not isfinite(norm):
            return UpdateStats(skipped_steps=counted, skipped=_skipped(computed))
        broken = not self.layout.finite()
        return stats + UpdateStats(optimizer_steps=counted, grad_norm=counted * norm, broken_weights=broken)

    def sync(self) -> None:
        """Send the policy's weights to the engine; every process of a sharded policy takes part."""
        if not self.engine.shares_weights:
            self.engine.sync(self.policy.named_weights())

    def save(self, folder: str) -> None:
        """Save model (only the adapters, if there are any) and optimizer for a checkpoint; the main process writes."""
        writes = self.processes.is_main
        adapter = self.policy.adapter
        state = full_state(self.policy.model, writes) if adapter is None else full_state(adapter, writes, "lora_")
        moments = self.layout.optimizer_state(writes)
        if writes:
            checkpoint.write_model(Path(folder) / "model", self.policy, state)
            checkpoint.write_optimizer(Path(folder), moments)

    def export(self, folder: str) -> None:
        """Save the full model in the hub's format, adapters merged, and they alone besides; the main process writes."""
        writes, adapter = self.processes.is_main, self.policy.adapter
        adapted = None if adapter is None else full_state(adapter, writes, "lora_")
        if adapter is None:
            state = full_state(self.policy.model, writes)
        else:
            state = {name: weight.cpu() for name, weight in self.policy.named_weights() if writes}
            tie(self.policy.model, state)
        if writes:
            checkpoint.export_model(Path(folder), self.policy, state)
            if adapted is not None:
                export_adapters(Path(folder) / ADAPTERS, adapter, adapted, self.config.model.model_name_or_path)

    def _backward(
        self, samples: Sequence[TrainingSample], arrangement: Arrangement, divisor: float, with_entropy: bool
    ) -> tuple[UpdateStats, list[Computed]]:
        """Add one micro-batch's gradients; a process without samples runs a filler alongside the others."""
        filler = not samples
        if filler:
            samples = [TrainingSample.filler(self.policy.pad_token_id, self.options.beta > 0)]
        batch = MicroBatch.of(samples, self.policy.pad_token_id, self.policy.device, arrangement)
        engine = self.config.engine
        mode = "none" if self.engine.exact_logprobs else engine.vllm_importance_sampling_mode
        # Gradients are averaged over processes, but the divisor already covers the samples of all of them.
        factor = 0.0 if filler else self.processes.count / divisor
        losses = BatchLoss(batch, self.options, mode, engine.vllm_importance_sampling_cap, factor)
        with self.processes.accelerator.autocast():
            logprob_M, entropy_M = self.layout.trained(batch.rows, with_entropy, losses.upstream)
        result, corrected = losses.tokens(logprob_M)
        loss = losses.sum(result.loss_M)
        value = loss.item()
        # A loss that isn't finite may have a finite gradient; as NaN it reaches every process, and none takes the step.
        self.layout.backward(loss * (factor if filler or isfinite(value) else nan))
        if filler:
            return UpdateStats(), []
        stats = corrected.stats + UpdateStats(
            tokens=len(logprob_M),
            loss=value,
            clipped_low=result.clipped_low_M.sum().item(),
            clipped_high=result.clipped_high_M.sum().item(),
            kl=None if batch.reference_M is None else result.kl_M.sum().item(),
            entropy=None if entropy_M is None else entropy_M.sum().item(),
        )
        return stats, [(samples, logprob_M.detach(), result.loss_M.detach())]


def _skipped(computed: Sequence[Computed]) -> tuple[SkippedSample, ...]:
    """What a skipped update computed, sample by sample; left on the device until then."""
    found = list[SkippedSample]()
    for samples, *columns in computed:
        counts = [sample.num_tokens for sample in samples]
        logprobs, losses = (torch.split(column.cpu(), counts) for column in columns)
        found += [
            SkippedSample(sample, logprob_T.numpy(), loss_T.numpy())
            for sample, logprob_T, loss_T in zip(samples, logprobs, losses, strict=True)
        ]
    return tuple(found)
