"""All of E3 (2505.18573): prompts in stream order, with E3's budget and temperature schedule."""

from __future__ import annotations

from strategies.base import Selector
from strategies.registry import register
from strategies.types import Prompt, PromptSource, StepContext


@register("e3")
class E3(Selector):
    """Takes every prompt in stream order, with E3's budget and temperature schedule."""

    paper = "2505.18573"
    companions = {"budget": "e3", "temperature_schedule": "entropy-target"}  # noqa: RUF012  (ClassVar in the base)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        return source.take(n)
