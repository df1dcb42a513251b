"""A run's progress: what changes from step to step, besides the model, the stream and the strategies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from prepo_cli.training.costs import Costs


@dataclass
class Progress:
    """`step` counts finished steps; `evaluation_due` if the evaluation after the last one is missing.

    `stop_requested` ends the run after the current step.
    """

    step: int = 0
    costs: Costs = field(default_factory=Costs)
    evaluation_due: bool = False
    stop_requested: bool = False

    def state_dict(self) -> dict[str, Any]:
        """The part that checkpoints hold."""
        return {"step": self.step, "costs": asdict(self.costs), "evaluation_due": self.evaluation_due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.step, self.costs = state["step"], Costs(**state["costs"])
        self.evaluation_due = state["evaluation_due"]
