"""What all sections share."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")
MAY_CHANGE = "may change on resume"
MayChange = Annotated[T, MAY_CHANGE]
"""Marks a setting, or a whole section, that a resumed run may change: where and how it computes, not what."""


class Section(BaseModel):
    """Base of all sections; unknown keys, infinities and NaN are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
