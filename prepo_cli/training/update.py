"""The update: advantages and weights in, optimiser steps out.

Gradients are accumulated over micro-batches bounded by padded tokens, dealt to all processes; the loss's divisor is
that of the whole mini-batch over all of them, so the gradient does not depend on how it was cut. On-policy (one pass,
one mini-batch) the old log-probs are the new ones, detached, and no extra forward pass is made.
"""

from __future__ import annotations

from collections.abc import Iterator

from prepo_cli.policy.policy import Scores
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.learner import add_sums
from prepo_cli.training.loss import LossOptions, divisor
from prepo_cli.training.sample import Trainee, num_tokens
from prepo_cli.training.team import Team


class Updater:
    """Turns a batch of trainees into optimiser steps."""

    def __init__(self, config: TrainingConfig, team: Team, options: LossOptions, engine_is_exact: bool) -> None:
        self.config, self.team, self.options, self.engine_is_exact = config, team, options, engine_is_exact

    def prepare(self, batch: list[Trainee]) -> None:
        """Log-probs that must be known before the first optimiser step: old ones if off-policy, the reference's."""
        if not self._off_policy(batch):
            for trainee in batch:
                trainee.old_logprob_T = None  # the update's own forward pass gives them
        elif self.engine_is_exact:
            for trainee in batch:
                trainee.old_logprob_T = trainee.engine_logprob_T
        elif any(trainee.old_logprob_T is None for trainee in batch):
            for trainee, (logprobs, _) in zip(batch, self._score(batch), strict=True):
                trainee.old_logprob_T = logprobs
        if self.config.beta > 0:
            for trainee, (logprobs, _) in zip(batch, self._score(batch, of_reference=True), strict=True):
                trainee.reference_logprob_T = logprobs

    def update(self, batch: list[Trainee], learning_rate: float, step: int) -> dict[str, float]:
        """All optimiser steps of a batch; metrics are means over them (extremes: over all)."""
        if not batch:
            return {"loss": 0.0, "grad_norm": 0.0}
        sums: dict[str, float] = {}
        steps = 0
        for _ in range(self.config.num_iterations):
            for mini_batch in self._mini_batches(batch):
                sums = add_sums(sums, self._optimizer_step(mini_batch, learning_rate, step))
                steps += 1
        return {key: value if _extreme(key) else value / steps for key, value in sums.items()}

    def _optimizer_step(self, batch: list[Trainee], learning_rate: float, step: int) -> dict[str, float]:
        over = divisor(num_tokens(batch), len(batch), self.options)
        # Without advantage and without KL a rollout has no gradient: it counts in the divisor and costs no pass.
        batch = [t for t in batch if t.factor_T.any() or t.reference_logprob_T is not None]
        if not batch:
            return {"loss": 0.0, "grad_norm": 0.0}
        sums = self.team.step(batch, over, learning_rate, step)
        tokens = num_tokens(batch)
        whole = {"loss": sums.pop("loss"), "grad_norm": sums.pop("grad_norm_max")}
        return whole | {key: value if _extreme(key) else value / tokens for key, value in sums.items()}

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

    def _score(self, batch: list[Trainee], of_reference: bool = False) -> Scores:
        return self.team.score(
            [t.ids for t in batch], [t.span for t in batch], [t.temperature for t in batch], of_reference=of_reference
        )


def _extreme(key: str) -> bool:
    return key.endswith(("_max", "_min"))
