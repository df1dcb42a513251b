"""Dynamic sampling of DAPO (2503.14476), which GRESO (2506.02177) builds on.

Groups whose rewards are all equal have zero advantage; they are dropped, and the trainer rolls out more prompts until
the batch is full. The dropped rollouts still count as cost.
"""

from __future__ import annotations

from strategies.base import RolloutFilter, all_kept
from strategies.registry import register
from strategies.types import BoolArray, Group, StepContext


@register("nonzero-variance")
class NonzeroVariance(RolloutFilter):
    """Drops groups whose rewards are all equal, and refills the batch in further rounds."""

    paper = "2503.14476"
    refills = True

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        return all_kept(group) & (not group.zero_variance)
