"""The update: advantages and weights in, optimizer steps out.

Gradients are accumulated over micro-batches limited by padded tokens and spread over all processes. The loss is divided
by the divisor of the whole mini-batch, so the gradient does not depend on how the mini-batch is split. On-policy (one
iteration, one mini-batch) the old log-probs are the new ones, detached; off-policy they are the engine's if these are
exact. A forward pass before the update is needed only for other old log-probs, for entropies that the weighting reads
and the engine does not report, and for the reference.

Mini-batches consist of complete groups, in an order derived from the run's seed. In the selector's order (by
perplexity, say) the last mini-batch of every step would contain the same kind of prompts.

An update whose loss or gradient isn't finite is skipped, as if it had never been tried; so many in a row end the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prepo_cli.errors import RunError
from prepo_cli.policy.policy import Scores
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.loss import LossOptions, divisor
from prepo_cli.training.rollouts import Sample
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.skips import Skips
from prepo_cli.training.team import Team
from prepo_cli.training.update_stats import UpdateStats
from strategies.types import derive_seed


class Updater:
    """Turns a batch into optimizer steps.

    Args:
        training: the run's settings.
        team: the processes that compute.
        options: the loss's settings.
        exact: whether the engine's log-probs equal the trainer's bit for bit.
        seed: the run's seed.
    """

    def __init__(self, training: TrainingConfig, team: Team, options: LossOptions, exact: bool, seed: int) -> None:
        self.training, self.team, self.options, self.exact, self.seed = training, team, options, exact, seed
        self.skips = Skips(training.max_skipped_steps)

    def prepare(self, groups: Sequence[Sequence[Sample]], needs_entropy: bool) -> None:
        """Set the log-probs and entropies that must be known before the first optimizer step."""
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
        """All optimizer steps of a batch; `with_entropy` also measures the tokens' entropy.

        Raises:
            RunError: the weights aren't finite any more.
        """
        stats = UpdateStats()
        for iteration in range(self.training.num_iterations):
            for mini_batch in self._mini_batches(batch, step, iteration):
                stats += self._optimizer_step(mini_batch, learning_rate, step, with_entropy)
                if self.skips.exhausted:
                    return stats
        return stats

    def _optimizer_step(
        self, batch: Sequence[TrainingSample], learning_rate: float, step: int, with_entropy: bool
    ) -> UpdateStats:
        loss_divisor = divisor(sum(sample.num_tokens for sample in batch), len(batch), self.options)
        # Samples without a gradient count in the divisor but need no forward pass.
        batch = [sample for sample in batch if sample.has_gradient]
        if not batch:
            return UpdateStats(divisor=loss_divisor)
        stats = self.team.step(batch, loss_divisor, learning_rate, step, with_entropy)
        if stats.broken_weights:
            raise RunError(
                f"the update in step {step} made weights infinite or NaN although its gradient was "
                "finite; start again with a lower training.learning_rate (resuming from the last "
                "checkpoint would repeat this step)"
            )
        self.skips.count(skipped=bool(stats.skipped_steps))
        return stats if stats.skipped_steps else stats + UpdateStats(divisor=loss_divisor)

    def _mini_batches(
        self, batch: Sequence[TrainingSample], step: int, iteration: int
    ) -> Iterator[Sequence[TrainingSample]]:
        """Complete groups, `mini_batch_prompts` at a time."""
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
