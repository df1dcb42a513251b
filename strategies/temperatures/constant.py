"""A constant temperature."""

from __future__ import annotations

from pydantic import Field

from strategies.base import StrategyParams, TemperatureSchedule
from strategies.registry import register
from strategies.types import StepContext


@register("constant")
class Constant(TemperatureSchedule):
    """Keeps the sampling temperature constant."""

    class Params(StrategyParams):
        """The temperature."""

        value: float = Field(1.0, ge=1e-3, le=100, description="sampling temperature")

    def temperature(self, ctx: StepContext) -> float:
        return float(self.params.value)
