"""Sampling for learnability (2502.12272): p (1 - p), where p is a prompt's pass rate.

Keeps the candidates with the highest p (1 - p); prompts never rolled out come first. Deviation: the paper measures p
with extra rollouts; here p is the running pass rate, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from strategies.base import Selector, State
from strategies.history import PromptHistory
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import Group, Prompt, PromptSource, RunInfo, StepContext


@register("learnability")
class Learnability(Selector):
    """Keeps the candidates with the highest p (1 - p), where p is the running pass rate; unseen prompts first."""

    paper = "2502.12272"
    Params = CandidateParams

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.history = PromptHistory(run.num_prompts)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        index_B = np.array([prompt.index for prompt in candidates])
        p_B = self.history.pass_rate(index_B)
        value_B = np.where(self.history.rollouts_P[index_B] == 0, np.inf, p_B * (1 - p_B))
        return [candidates[i] for i in np.argsort(-value_B, kind="stable")[:n]]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        self.history.add(groups)

    def state_dict(self) -> State:
        return self.history.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.history.load_state_dict(state)
