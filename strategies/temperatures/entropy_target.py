"""E3's temperature schedule (2505.18573): keeps the policy's entropy near a target.

After a step with token-mean entropy H: T <- T * (1 + T * ln(H_target / H) / D), D = ln V + ln ln V, V the vocabulary
size; the first step sets H_target = H. Over the last 40% of the steps H_target falls along a cosine to 90% of its
first value; it is updated after T, so a new target takes effect at the next step. Choices: T stays within bounds;
H <= 0 leaves T unchanged while the target keeps falling; and a vocabulary below 16 counts as 16, because D would be
close to 0 or undefined.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from strategies.base import State, StrategyParams, TemperatureSchedule
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.types import RunInfo, StepContext, StepReport

FINE = 1_000_000
"""Parts into which a run that ends at a cost is divided, since its number of steps is not known."""


def scale(vocab_size: int) -> float:
    """D = ln V + ln ln V.

    >>> round(scale(151_936), 6)
    14.410373
    """
    return math.log(vocab_size) + math.log(math.log(vocab_size))


def moved(temperature: float, entropy: float, target: float, d: float) -> float:
    """The next temperature, without bounds.

    >>> round(moved(1.0, entropy=0.36, target=0.4, d=scale(151_936)), 6)
    1.007311
    """
    return temperature * (1 + temperature * math.log(target / entropy) / d)


def annealed(first_target: float, t: float, t_max: int, share: float, depth: float) -> float:
    """H_target after step t, counted from 1.

    >>> [round(annealed(0.4, t, t_max=100, share=0.4, depth=0.1), 6) for t in (1, 60, 80, 100)]
    [0.4, 0.4, 0.38, 0.36]
    """
    t_a = t_max - int(share * t_max)
    if t <= t_a or t_a == t_max:
        return first_target
    done = min((t - t_a) / (t_max - t_a), 1.0)
    return first_target * ((1 - depth) + depth * (1 + math.cos(math.pi * done)) / 2)


@register("entropy-target")
class EntropyTarget(TemperatureSchedule):
    """Raises the temperature when the policy's entropy falls below its first value, lowers it when it rises above."""

    paper = "2505.18573"
    reads_progress = True
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "entropy_target": (
            "nats",
            "target token entropy of the schedule; 0 until the first step has measured it",
        ),
    }

    class Params(StrategyParams):
        """Start, bounds and annealing."""

        start: float = Field(1.0, ge=1e-3, le=100, description="temperature of the first step")
        minimum: float = Field(0.1, ge=1e-3, le=100, description="lowest temperature")
        maximum: float = Field(2.0, ge=1e-3, le=100, description="highest temperature")
        anneal_share: float = Field(
            0.4,
            ge=0,
            le=1,
            description="final share of the run over which the target entropy falls",
        )
        anneal_depth: float = Field(0.1, ge=0, le=1, description="relative decrease of the target entropy")

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if not params.minimum <= params.start <= params.maximum:
            raise StrategyError(
                f"temperature_schedule 'entropy-target': start={params.start} is outside "
                f"[minimum={params.minimum}, maximum={params.maximum}]; choose a value inside"
            )

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.value = float(params.start)
        self.first_target: float | None = None
        self.target = 0.0

    def temperature(self, ctx: StepContext) -> float:
        return self.value

    def end_step(self, report: StepReport) -> None:
        entropy = report.entropy
        if entropy is not None and entropy > 0:
            if self.first_target is None:
                self.first_target = self.target = entropy
            else:
                value = moved(self.value, entropy, self.target, scale(max(self.run.vocab_size, 16)))
                self.value = min(max(value, self.params.minimum), self.params.maximum)
        if self.first_target is not None:
            share, depth = self.params.anneal_share, self.params.anneal_depth
            t, t_max = (report.step + 1, report.total_steps) if report.spent is None else (report.spent * FINE, FINE)
            self.target = annealed(self.first_target, t, t_max, share, depth)

    def metrics(self) -> dict[str, float]:
        return {"entropy_target": self.target}

    def state_dict(self) -> State:
        return {"value": self.value, "first_target": self.first_target, "target": self.target}

    def load_state_dict(self, state: State) -> None:
        self.value, self.first_target, self.target = state["value"], state["first_target"], state["target"]
