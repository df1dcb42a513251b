"""What the files of a finished run must hold to be compared; a damaged one is named with what is wrong in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prepo_cli.config import read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.sections import RunConfig
from prepo_cli.validation import validation_message

M = TypeVar("M", bound=BaseModel)
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""Text is no number, and nothing may be added that means something else; other fields are left alone."""


class Cost(BaseModel):
    """What a run had cost in the end."""

    model_config = STRICT
    rollouts_total: float
    rollouts_trained: float
    tokens_generated: float
    tokens_scored: float
    seconds: float


class StartedSummary(BaseModel):
    """`summary.json` of a training run that took no step."""

    model_config = STRICT
    recipe: str
    strategies: dict[str, str]
    seed: int
    metric: str
    steps: int | None = None
    after: dict[str, Any] | None = None


class TrainingSummary(StartedSummary):
    """`summary.json` of a training run."""

    cost: Cost


class EvaluationSummary(BaseModel):
    """`summary.json` of `prepo eval`."""

    model_config = STRICT
    fingerprint: str
    model: str
    seed: int
    k: int = Field(ge=1)


class Mean(BaseModel):
    """A mean with or without its interval."""

    model_config = STRICT
    value: float


class EvaluationLine(BaseModel):
    """A line of `evaluations.jsonl`; `accuracy` is its metric, which goes by a name of its own.

    The long lists are checked as arrays, which is faster.
    """

    model_config = STRICT
    step: int
    accuracy: Mean
    prompt_ids: list[Any]
    per_prompt: list[Any]
    rollouts_total: float
    tokens_total: float | None = None
    train_seconds: float | None = None


def checked(model: type[M], content: Mapping[str, Any], place: str, cure: str) -> M:
    """The content as the model has it.

    Raises:
        UsageError: something is missing or has the wrong type; the message names the place and says how to fix it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        what = f"no {name}" if first["type"] == "missing" else validation_message(error)
        raise UsageError(f"{place}: {what}; {cure}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run or an evaluation, of any version, whose sections are mappings.

    Raises:
        UsageError: it is damaged.
    """
    config = read_yaml(path)
    for name, field in RunConfig.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if is_section and not isinstance(config.get(name, {}), dict):
            raise UsageError(f"{path}: {name} is not a section; copy the file again from the original run")
    return config
