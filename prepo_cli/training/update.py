"""The update: advantages and weights in, an optimiser step out.

Gradients are accumulated over micro-batches bounded by padded tokens; the loss's divisor is that of the whole
mini-batch over all processes, so the gradient does not depend on how it was cut. On-policy (one pass, one mini-batch)
the old log-probs are the new ones, detached, and no extra forward pass is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from prepo_cli.config import TrainingConfig
from prepo_cli.models import Policy
from prepo_cli.training.collect import Sample
from prepo_cli.training.loss import LossOptions, aggregate, divisor, token_loss
from prepo_cli.training.scoring import pad_rows, spans_mask, token_batches
from strategies.types import FloatArray


@dataclass
class Trainee:
    """A rollout as the update sees it: its token ids, its prompt's length, and a factor for each completion token."""

    ids: list[int]
    start: int
    temperature: float
    factor_T: FloatArray
    engine_logprob_T: FloatArray
    group: int
    old_logprob_T: FloatArray | None = None
    reference_logprob_T: FloatArray | None = None

    @property
    def span(self) -> tuple[int, int]:
        """The completion's tokens."""
        return self.start, len(self.ids)


def trainees(groups: Sequence[Sequence[Sample]], weights_NT: FloatArray, drop_truncated: bool) -> list[Trainee]:
    """Rollouts with factor advantage x weight for each token; truncated ones are left out where so configured."""
    rows = [(number, sample) for number, group in enumerate(groups) for sample in group]
    made = []
    for (number, sample), weights in zip(rows, weights_NT, strict=True):
        length = len(sample.rollout.token_ids)
        if length == 0 or (drop_truncated and sample.rollout.truncated):
            continue
        made.append(
            Trainee(
                ids=sample.prompt_ids + sample.rollout.token_ids,
                start=len(sample.prompt_ids),
                temperature=sample.temperature,
                factor_T=sample.advantage * np.broadcast_to(weights[:length], length),
                engine_logprob_T=sample.rollout.logprobs,
                group=number,
            )
        )
    return made


class Updater:
    """Turns a batch of trainees into optimiser steps."""

    def __init__(
        self,
        config: TrainingConfig,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        reference: Policy | None,
        engine_is_exact: bool,
    ) -> None:
        self.config, self.policy, self.optimizer, self.accelerator = config, policy, optimizer, accelerator
        self.reference, self.engine_is_exact = reference, engine_is_exact
        self.options = LossOptions(
            loss_type=config.loss_type,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            beta=config.beta,
            importance_sampling_level=config.importance_sampling_level,
            max_completion_length=config.max_completion_length,
        )
        self.tokens_scored = 0

    def prepare(self, batch: list[Trainee]) -> None:
        """Log-probs that must be known before the first optimiser step: old ones if off-policy, the reference's."""
        if self._off_policy(batch):
            if self.engine_is_exact:
                for trainee in batch:
                    trainee.old_logprob_T = trainee.engine_logprob_T
            else:
                for trainee, logprobs in zip(batch, self._score(self.policy, batch), strict=True):
                    trainee.old_logprob_T = logprobs
        if self.reference is not None:
            for trainee, logprobs in zip(batch, self._score(self.reference, batch), strict=True):
                trainee.reference_logprob_T = logprobs

    def update(self, batch: list[Trainee]) -> dict[str, float]:
        """Optimise on the batch; metrics are token means over all passes, none for an empty batch."""
        sums: dict[str, float] = {}
        steps = 0
        for _ in range(self.config.num_iterations):
            for mini_batch in self._mini_batches(batch):
                for key, value in self._optimizer_step(mini_batch).items():
                    joined = max(sums.get(key, 0.0), value) if key.endswith("_max") else sums.get(key, 0.0) + value
                    sums[key] = joined
                steps += 1
        return {key: value if key.endswith("_max") else value / steps for key, value in sums.items()}

    def _optimizer_step(self, batch: list[Trainee]) -> dict[str, float]:
        over = divisor(_tokens(batch), len(batch), self.options)
        # Without advantage and without KL a rollout has no gradient: it counts in the divisor and costs no pass.
        batch = [t for t in batch if t.factor_T.any() or t.reference_logprob_T is not None]
        if not batch:
            return {"loss": 0.0, "grad_norm": 0.0}
        tokens = _tokens(batch)
        self.policy.scorer.train()
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        micro_batches = list(token_batches([len(t.ids) for t in batch], self.config.max_tokens_per_micro_batch))
        for number, indices in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with self.accelerator.no_sync(self.policy.scorer) if not last else nullcontext():
                for key, value in self._micro_batch([batch[i] for i in indices], over).items():
                    totals[key] = (
                        max(totals.get(key, 0.0), value) if key.endswith("_max") else totals.get(key, 0) + value
                    )
        norm = self.accelerator.clip_grad_norm_(self.policy.scorer.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        loss = totals.pop("loss")
        means = {key: value if key.endswith("_max") else value / tokens for key, value in totals.items()}
        return {"loss": loss, "grad_norm": float(norm), **means}

    def _micro_batch(self, batch: list[Trainee], over: float) -> dict[str, float]:
        device = self.policy.device
        ids, mask = pad_rows([t.ids for t in batch], self.policy.pad_token_id, device)
        chosen = spans_mask([t.span for t in batch], ids.shape[1], device)
        heat = torch.tensor([t.temperature for t in batch], dtype=torch.float32, device=device)
        logprob_M, _ = self.policy.scorer(ids, mask, chosen, heat)
        sequence_M = chosen.nonzero(as_tuple=True)[0]
        factor_M = _flat([t.factor_T for t in batch], device)
        engine_M = _flat([t.engine_logprob_T for t in batch], device)
        old_M = _optional([t.old_logprob_T for t in batch], device)
        reference_M = _optional([t.reference_logprob_T for t in batch], device)
        result = token_loss(
            logprob_M, logprob_M.detach() if old_M is None else old_M, factor_M, sequence_M, self.options, reference_M
        )
        loss = aggregate(result.loss_M, sequence_M, self.options) / over
        self.accelerator.backward(loss)
        gap_M = logprob_M.detach() - engine_M
        metrics = {
            "loss": loss.item(),
            "clip_ratio/low": result.clipped_low_M.sum().item(),
            "clip_ratio/high": result.clipped_high_M.sum().item(),
            "sampling/logp_difference": gap_M.abs().sum().item(),
            "sampling/logp_difference_max": gap_M.abs().max().item(),
        }
        return metrics | ({"kl": result.kl_M.sum().item()} if reference_M is not None else {})

    def _mini_batches(self, batch: list[Trainee]) -> Iterator[list[Trainee]]:
        """Whole groups, `mini_batch_prompts` at a time."""
        groups = sorted({trainee.group for trainee in batch})
        size = self.config.mini_batch_prompts or max(len(groups), 1)
        for start in range(0, len(groups), size):
            chosen = set(groups[start : start + size])
            yield [trainee for trainee in batch if trainee.group in chosen]

    def _off_policy(self, batch: list[Trainee]) -> bool:
        groups = len({trainee.group for trainee in batch})
        return self.config.num_iterations > 1 or groups > (self.config.mini_batch_prompts or groups)

    def _score(self, policy: Policy, batch: list[Trainee]) -> list[Any]:
        self.tokens_scored += sum(len(trainee.ids) for trainee in batch)
        scores = policy.score(
            [t.ids for t in batch],
            [t.span for t in batch],
            [t.temperature for t in batch],
            self.config.max_tokens_per_micro_batch,
        )
        return [logprobs for logprobs, _ in scores]


def _tokens(batch: Sequence[Trainee]) -> int:
    return sum(trainee.span[1] - trainee.span[0] for trainee in batch)


def _flat(parts: Sequence[FloatArray], device: Any) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(device)


def _optional(parts: Sequence[FloatArray | None], device: Any) -> torch.Tensor | None:
    known = [part for part in parts if part is not None]
    return _flat(known, device) if known else None
