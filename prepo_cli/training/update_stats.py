"""Statistics of an update: sums over tokens, and extremes, combined over micro-batches, processes and optimizer steps.

Means are over the tokens that pass through the model, so mini-batches without gradients do not dilute them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from prepo_cli.training.sample import TrainingSample
from strategies.types import FloatArray


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A sample of a skipped update, with the log-prob and loss of each of its completion tokens."""

    sample: TrainingSample
    logprob_T: FloatArray
    loss_T: FloatArray


@dataclass(frozen=True)
class UpdateStats:
    """Sums over `tokens`, unless a field says otherwise. `a + b` combines both.

    `loss` is a sum whose mean is over `divisor`, which also counts tokens without gradient. `engine_*` compare the
    engine's log-probs of the sampled tokens with the trainer's.
    """

    tokens: int = 0
    optimizer_steps: int = 0
    skipped_steps: int = 0
    """Optimizer steps that were not taken because the loss or the gradient wasn't finite; in no other sum."""
    skipped: tuple[SkippedSample, ...] = ()
    broken_weights: bool = False
    """Whether the weights aren't finite after a step."""
    loss: float = 0.0
    divisor: float = 0.0
    grad_norm: float = 0.0
    """Summed over optimizer steps."""
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    kl: float | None = None
    """None without a reference."""
    entropy: float | None = None
    """None if it was not computed."""
    engine_gap: float = 0.0
    engine_gap_max: float = 0.0
    engine_kl: float = 0.0
    ratio: float | None = None
    """Importance ratios; None if nothing is corrected."""
    ratio_max: float = -inf
    ratio_min: float = inf
    corrected: float = 0.0

    def __add__(self, other: UpdateStats) -> UpdateStats:
        return UpdateStats(
            tokens=self.tokens + other.tokens,
            optimizer_steps=self.optimizer_steps + other.optimizer_steps,
            skipped_steps=self.skipped_steps + other.skipped_steps,
            skipped=self.skipped + other.skipped,
            broken_weights=self.broken_weights or other.broken_weights,
            loss=self.loss + other.loss,
            divisor=self.divisor + other.divisor,
            grad_norm=self.grad_norm + other.grad_norm,
            clipped_low=self.clipped_low + other.clipped_low,
            clipped_high=self.clipped_high + other.clipped_high,
            kl=_sum_of_known(self.kl, other.kl),
            entropy=_sum_of_known(self.entropy, other.entropy),
            engine_gap=self.engine_gap + other.engine_gap,
            engine_gap_max=max(self.engine_gap_max, other.engine_gap_max),
            engine_kl=self.engine_kl + other.engine_kl,
            ratio=_sum_of_known(self.ratio, other.ratio),
            ratio_max=max(self.ratio_max, other.ratio_max),
            ratio_min=min(self.ratio_min, other.ratio_min),
            corrected=self.corrected + other.corrected,
        )

    @property
    def mean_entropy(self) -> float | None:
        """Mean token entropy in nats; None if it was not computed."""
        return self.entropy / self.tokens if self.entropy is not None and self.tokens else None

    def metrics(self) -> dict[str, float]:
        """The update's metrics for the log."""
        found = {
            "loss": self.loss / self.divisor if self.divisor else 0.0,
            "grad_norm": self.grad_norm / self.optimizer_steps if self.optimizer_steps else 0.0,
            "skipped_steps": self.skipped_steps,
        }
        if not self.tokens:
            return found
        sums = {
            "clip_ratio/low": self.clipped_low,
            "clip_ratio/high": self.clipped_high,
            "sampling/logp_difference": self.engine_gap,
            "sampling/kl": self.engine_kl,
        }
        if self.kl is not None:
            sums["kl"] = self.kl
        found["sampling/logp_difference_max"] = self.engine_gap_max
        if self.ratio is not None:
            sums |= {"sampling/importance_ratio": self.ratio, "sampling/corrected_ratio": self.corrected}
            found |= {"sampling/importance_ratio_max": self.ratio_max, "sampling/importance_ratio_min": self.ratio_min}
        return found | {name: value / self.tokens for name, value in sums.items()}


def _sum_of_known(one: float | None, other: float | None) -> float | None:
    """The sum of the values that are not None."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
