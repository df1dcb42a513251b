"""Where a run stands: what changes as it goes, besides the model, the stream and the strategies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from prepo_cli.training.costs import Costs


@dataclass
class Progress:
    """`step` counts finished steps; `stop_requested` ends the run after the current one."""

    step: int = 0
    costs: Costs = field(default_factory=Costs)
    stop_requested: bool = False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"step": self.step, "costs": asdict(self.costs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.step, self.costs = state["step"], Costs(**state["costs"])
