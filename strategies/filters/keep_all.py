"""No filtering."""

from __future__ import annotations

from strategies.base import RolloutFilter, all_kept
from strategies.registry import register
from strategies.types import BoolArray, Group, StepContext


@register("keep-all")
class KeepAll(RolloutFilter):
    """Trains on every rollout."""

    def keep(self, group: Group, ctx: StepContext) -> BoolArray:
        return all_kept(group)
