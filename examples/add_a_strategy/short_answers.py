"""Give short answers more weight: w_i = (mean length / length of rollout i) ^ power, scaled to mean 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from strategies import Batch, RolloutWeighting, RunInfo, State, StepContext, StrategyParams, register


@register("short-answers")
class ShortAnswers(RolloutWeighting):
    """Short rollouts get more weight than long ones."""

    class Params(StrategyParams):
        """Set on the command line, for example --weighting short-answers:power=0.5."""

        power: float = Field(0.5, ge=0, le=2, description="0 gives all rollouts the same weight")

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.steps_seen = 0

    def weigh(self, batch: Batch, ctx: StepContext) -> np.ndarray:
        """One weight per rollout, [N, 1]."""
        lengths = np.maximum(batch.lengths_N, 1)
        weights = (lengths.mean() / lengths) ** self.params.power
        self.steps_seen += 1
        return (weights / weights.mean())[:, None]

    def metrics(self) -> dict[str, float]:
        """Logged as weighting/steps_seen."""
        return {"steps_seen": float(self.steps_seen)}

    def state_dict(self) -> State:
        """The state to checkpoint: everything that the next step depends on."""
        return {"steps_seen": self.steps_seen}

    def load_state_dict(self, state: State) -> None:
        """Restore a checkpointed state."""
        self.steps_seen = state["steps_seen"]
