"""No selection."""

from __future__ import annotations

from strategies.base import Selector
from strategies.registry import register
from strategies.types import Prompt, PromptSource, StepContext


@register("full")
class Full(Selector):
    """Takes every prompt in the order of the shuffled stream, each once per epoch."""

    paper = "2511.00794"

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        return source.take(n)
