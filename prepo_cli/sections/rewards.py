"""Rewards and what counts as correct."""

from __future__ import annotations

from pydantic import Field, model_validator

from prepo_cli.sections.base import MayChange, Section

VERDICTS = ("math", "exact", "boxed")
"""Reward functions that can decide correctness, in order of precedence."""


class RewardConfig(Section):
    """How completions are scored, and which of them count as correct.

    The reward is the weighted sum of all functions. Correctness is the verdict of one function on its own scale: other
    functions and weights never change it.
    """

    functions: list[str] = Field(["math"], min_length=1, description="math, exact, boxed or package.module:function")
    weights: list[float] | None = Field(None, description="one per function; 1 each by default")
    verdict: str | None = Field(
        None,
        description="the function that decides correctness; by default the first of math, exact, boxed among them, "
        "else the first",
    )
    correct_reward: float = Field(
        1.0, description="a rollout is correct if the verdict function's own, unweighted value reaches this"
    )
    timeout_s: float = Field(5.0, gt=0, description="for checking one completion; past it the completion is wrong")
    workers: MayChange[int | None] = Field(None, ge=1, description="processes; by default one per core, at most 8")

    @property
    def verdict_function(self) -> str:
        """The function that decides correctness."""
        if self.verdict is not None:
            return self.verdict
        return next((name for name in VERDICTS if name in self.functions), self.functions[0])

    @model_validator(mode="after")
    def _one_weight_each(self) -> RewardConfig:
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ValueError(
                f"rewards.weights: {len(self.weights)} weights for {len(self.functions)} functions; set one weight per "
                "function"
            )
        return self

    @model_validator(mode="after")
    def _verdict_is_a_function(self) -> RewardConfig:
        if self.verdict is not None and self.verdict not in self.functions:
            raise ValueError(
                f"rewards.verdict={self.verdict} is not one of the reward functions: {', '.join(self.functions)}; "
                "choose one of these, or add it to rewards.functions with weight 0"
            )
        return self
