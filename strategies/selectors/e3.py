"""E3 (2505.18573) as a whole: random prompts in epoch order, with its budget and its temperature schedule."""

from __future__ import annotations

from strategies.base import Selector
from strategies.registry import register
from strategies.types import Prompt, PromptSource, StepContext


@register("e3")
class E3(Selector):
    """Every prompt in epoch order; brings E3's difficulty budgets and entropy-driven temperature along."""

    paper = "2505.18573"
    companions = {"budget": "e3", "temperature_schedule": "entropy-target"}  # noqa: RUF012  (ClassVar in the base)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        return source.take(n)
