"""Rewards and what counts as correct."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prepo_cli.sections.base import MayChange, Section

VERDICTS = ("math", "exact", "boxed")
"""Reward functions that can decide correctness, in order of precedence."""


class RewardConfig(Section):
    """How completions are scored, and which of them count as correct.

    The reward is the weighted sum of all functions. Correctness is the verdict of one function on its own scale: other
    functions and weights never change it.
    """

    functions: list[str] = Field(
        ["math"],
        min_length=1,
        description="reward functions: math, exact, boxed, path/to/file.py:function or package.module:function",
    )
    weights: list[Annotated[float, Field(ge=-1e6, le=1e6)]] | None = Field(
        None, description="weight of each function; by default 1"
    )
    verdict: str | None = Field(
        None,
        description="function that decides correctness; by default math, else exact, else boxed, else the first",
    )
    correct_reward: float = Field(
        1.0,
        ge=-1e6,
        le=1e6,
        description="a rollout is correct if the verdict function's unweighted value is at least this",
    )
    timeout_s: MayChange[float] = Field(
        5.0,
        gt=0,
        le=86_400,
        description="seconds allowed per completion; a call of your own function gets this for each "
        "completion in its list",
    )
    batch_timeout_s: MayChange[float] = Field(
        600.0, gt=0, le=86_400, description="maximum seconds for one call of your own function, over a whole list"
    )
    on_error: MayChange[Literal["stop", "zero", "skip"]] = Field(
        "stop",
        description="if your own function fails on a completion: stop the run, count it as 0, or skip it as if the "
        "function did not apply",
    )
    memory_gb: MayChange[float | None] = Field(
        None,
        gt=0,
        le=1e6,
        description="memory limit of each process that runs your own functions; by default half the machine's",
    )
    workers: MayChange[int | None] = Field(
        None, ge=1, le=1024, description="worker processes; by default one per core, at most 8"
    )

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
