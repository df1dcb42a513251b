"""The update: advantages and weights in, optimiser steps out.

Gradients are accumulated over micro-batches bounded by padded tokens and spread over all processes; the loss's divisor
is that of the whole mini-batch, so the gradient does not depend on how it was cut. On-policy (one pass, one mini-batch)
the old log-probs are the new ones, detached. A forward pass before the update is made only for old log-probs that the
engine's don't stand for, for entropies that the weighting needs and the engine doesn't give, and for the reference.

Mini-batches hold whole groups, drawn in an order that derives from the run's seed: a selector's order, by perplexity
say, would otherwise give every step's last update the same kind of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prepo_cli.policy.policy import Scores
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.loss import LossOptions, divisor
from prepo_cli.training.rollouts import Sample
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.team import Team
from prepo_cli.training.update_stats import UpdateStats
from strategies.types import derive_seed


class Updater:
    """Turns a batch into optimiser steps.

    Args:
        training: the run's settings.
        team: what computes.
        options: of the loss.
        exact: whether the engine's log-probs are the trainer's own, to the last bit.
        seed: the run's.
    """

    def __init__(self, training: TrainingConfig, team: Team, options: LossOptions, exact: bool, seed: int) -> None:
        self.training, self.team, self.options, self.exact, self.seed = training, team, options, exact, seed

    def prepare(self, groups: Sequence[Sequence[Sample]], needs_entropy: bool) -> None:
        """Give the rollouts what must be known of them before the first optimiser step."""
        samples = [sample for group in groups for sample in group]
        off_policy = self._is_off_policy(len(groups))
        entropy_unknown = any(sample.entropies is None for sample in samples)
        if off_policy and self.exact:
            for sample in samples:
                sample.old_logprobs = sample.rollout.logprobs
        if (off_policy and not self.exact) or (needs_entropy and entropy_unknown):
            for sample, (logprobs, entropies) in zip(samples, self._score(samples, entropy_unknown), strict=True):
                sample.old_logprobs = logprobs if off_policy else None
                sample.entropies = sample.entropies if entropies is None else entropies
        if self.training.beta > 0:
            for sample, (logprobs, _) in zip(samples, self._score(samples, of_reference=True), strict=True):
                sample.reference_logprobs = logprobs

    def update(
        self, batch: Sequence[TrainingSample], learning_rate: float, step: int, with_entropy: bool = False
    ) -> UpdateStats:
        """All optimiser steps of a batch; `with_entropy` also measures the entropy of what passes through the model."""
        stats = UpdateStats()
        for iteration in range(self.training.num_iterations):
            for mini_batch in self._mini_batches(batch, step, iteration):
                stats += self._optimizer_step(mini_batch, learning_rate, step, with_entropy)
        return stats

    def _optimizer_step(
        self, batch: Sequence[TrainingSample], learning_rate: float, step: int, with_entropy: bool
    ) -> UpdateStats:
        over = divisor(sum(sample.num_tokens for sample in batch), len(batch), self.options)
        # A sample without gradient counts in the divisor and costs no pass.
        batch = [sample for sample in batch if sample.has_gradient]
        stats = UpdateStats(divisor=over)
        return stats + self.team.step(batch, over, learning_rate, step, with_entropy) if batch else stats

    def _mini_batches(
        self, batch: Sequence[TrainingSample], step: int, iteration: int
    ) -> Iterator[Sequence[TrainingSample]]:
        """Whole groups, `mini_batch_prompts` at a time."""
        groups = sorted({sample.group for sample in batch})
        size = self.training.mini_batch_prompts or max(len(groups), 1)
        if size < len(groups):
            rng = np.random.default_rng(derive_seed(self.seed, "mini-batches", step, iteration))
            groups = [groups[i] for i in rng.permutation(len(groups))]
        for start in range(0, len(groups), size):
            chosen = set(groups[start : start + size])
            yield [sample for sample in batch if sample.group in chosen]

    def _is_off_policy(self, num_groups: int) -> bool:
        return self.training.num_iterations > 1 or num_groups > (self.training.mini_batch_prompts or num_groups)

    def _score(self, samples: Sequence[Sample], with_entropy: bool = False, of_reference: bool = False) -> Scores:
        return self.team.score(
            [s.prompt_ids + s.rollout.token_ids for s in samples],
            [(len(s.prompt_ids), len(s.prompt_ids) + s.num_tokens) for s in samples],
            [s.temperature for s in samples],
            with_entropy=with_entropy,
            of_reference=of_reference,
        )
