"""The same number of rollouts for every prompt, as in GRPO."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.base import BudgetAllocator
from strategies.registry import register
from strategies.types import Prompt, StepContext


@register("uniform")
class Uniform(BudgetAllocator):
    """Gives every prompt the same number of rollouts."""

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        share, extra = divmod(total, len(prompts))
        return [share + (i < extra) for i in range(len(prompts))]
