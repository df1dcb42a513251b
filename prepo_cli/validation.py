"""Settings checked against a pydantic model, whose errors become one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prepo_cli.errors import UsageError
from prepo_cli.text import brief, plain
from strategies.errors import fault

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], settings: Mapping[str, Any]) -> M:
    """The settings as the model has them; raises UsageError with the first error, as one line."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise UsageError(validation_message(error)) from error


def validation_message(error: ValidationError) -> str:
    """The first error of a pydantic ValidationError as one line."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # from a validator of ours, whose message names the settings
        return plain(first["msg"].removeprefix("Value error, "))
    place = ".".join(map(str, first["loc"]))
    return f"{brief(place)}={brief(json.dumps(first['input'], default=str, ensure_ascii=False))}: {fault(first)}"
