"""Strategies for spending rollouts, the part a researcher extends; free of tensors, ranks, files and configuration."""

from strategies.base import (
    BudgetAllocator,
    RolloutFilter,
    RolloutWeighting,
    Selector,
    State,
    Strategy,
    StrategyParams,
    TemperatureSchedule,
)
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.strategy_set import StrategySet
from strategies.types import (
    Batch,
    Completion,
    Group,
    Prompt,
    PromptSource,
    RunInfo,
    StepContext,
    StepReport,
)

__all__ = [
    "Batch",
    "BudgetAllocator",
    "Completion",
    "Group",
    "Prompt",
    "PromptSource",
    "RolloutFilter",
    "RolloutWeighting",
    "RunInfo",
    "Selector",
    "State",
    "StepContext",
    "StepReport",
    "Strategy",
    "StrategyError",
    "StrategyParams",
    "StrategySet",
    "TemperatureSchedule",
    "register",
]
