"""What of TRL's configuration doesn't go together with strategies, refused before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from prepo_cli.errors import UsageError
from prepo_cli.integrations.trl_hooks import ROW_MEANS, TOKEN_MEANS
from prepo_cli.rewards.judge import TOLERANCE

IMAGES = ("image", "images")


def refuse_unsupported(trainer: GRPOTrainer) -> None:
    """Raise UsageError that names the first setting that strategies can't work with, and the cure."""
    args, dataset = trainer.args, trainer.train_dataset
    if not isinstance(dataset, Dataset):
        raise UsageError(
            f"train_dataset is a {type(dataset).__name__}, but strategies choose by row number: pass a datasets.Dataset"
        )
    if "prompt" not in dataset.column_names:
        raise UsageError(f"train_dataset has no column 'prompt', only {', '.join(dataset.column_names)}; rename one")
    images = [name for name in IMAGES if name in dataset.column_names]
    if images:
        raise UsageError(f"train_dataset has a column '{images[0]}': prepo supports text alone; remove it")
    if trainer.loss_type not in ROW_MEANS | TOKEN_MEANS:
        known = ", ".join(sorted(ROW_MEANS | TOKEN_MEANS))
        raise UsageError(
            f"loss_type='{trainer.loss_type}' isn't known to take weights by token; set one of GRPOConfig's {known}"
        )
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise UsageError(
            f"multi_objective_aggregation='{args.multi_objective_aggregation}' has no single reward for strategies to "
            "see; set 'sum_then_normalize'"
        )
    if "temperature" in (args.generation_kwargs or {}):
        raise UsageError("generation_kwargs sets a temperature, which no schedule could change; set args.temperature")


@dataclass(frozen=True)
class Verdict:
    """Which completions are correct: those that one reward function gives at least `at_least`, unweighted."""

    column: int
    at_least: float

    @classmethod
    def of(cls, trainer: GRPOTrainer, function: str | None, at_least: float) -> Verdict:
        """The verdict of a function by name, or of the first; raises UsageError if there is none of that name."""
        names = trainer.reward_func_names
        if function is None:
            return cls(0, at_least)
        if function not in names:
            raise UsageError(f"verdict='{function}' is not among the reward functions: {', '.join(names)}")
        return cls(names.index(function), at_least)

    def __call__(self, rewards_NF: Tensor) -> list[bool]:
        """Of rewards by function; NaN, which stands for not applicable, is not correct."""
        correct: list[bool] = (rewards_NF[:, self.column] >= self.at_least - TOLERANCE).tolist()
        return correct
