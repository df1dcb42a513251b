"""What training costs: everything computed for it, whether it was trained on or not.

Dropped, surplus and pilot rollouts, perplexity scoring and extra log-prob passes are all charged, and the rollouts that
measured stored pass rates where `data.charge_pass_rates` is set. Evaluations and the rollouts and tokens of engine
checks are not: a resumed run repeats some of them, and must report the same cost as an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prepo_cli.training.rollouts import Collected, R


@dataclass
class Costs:
    """Running totals of a run."""

    rollouts_total: int = 0
    rollouts_trained: int = 0
    tokens_generated: int = 0
    tokens_scored: int = 0
    seconds: float = 0.0

    def charge(self, step: Collected[R], tokens_scored: int, seconds: float) -> None:
        """Add a step; `tokens_scored` are those of passes other than sampling and the update."""
        self.rollouts_total += len(step.samples)
        self.rollouts_trained += sum(map(len, step.trained))
        self.tokens_generated += sum(sample.num_tokens for sample in step.samples)
        self.tokens_scored += tokens_scored
        self.seconds += seconds

    def metrics(self) -> dict[str, float]:
        """`cost/*` totals."""
        return {f"cost/{key}": value for key, value in asdict(self).items()}
