"""What all sections share."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")
MAY_CHANGE = "may change on resume"
MayChange = Annotated[T, MAY_CHANGE]
"""Marks a setting, or a whole section, that a resumed run may change: where and how it computes, not what."""
ENDS_RUN = "ends the run"
Limit = Annotated[T, ENDS_RUN]
"""Marks a limit on a run's length, which a resumed run may change; runs that differ in it still count as different."""

LARGEST_COUNT = 10**12
"""Upper bound for counts that grow with a run: rows, steps, rollouts, tokens, seconds. Every setting has a bound."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
COLDEST = 1e-3
"""Below this temperature, except at 0, logits overflow."""


def _greedy_or_sampled(temperature: float) -> float:
    if 0 < temperature < COLDEST:
        raise ValueError(f"temperature={temperature:g}: must be 0, which is greedy decoding, or at least {COLDEST:g}")
    return temperature


Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_greedy_or_sampled)]
"""Sampling temperature of an evaluation: 0 is greedy decoding, and at 100 every token is about equally likely."""


class Section(BaseModel):
    """Base of all sections; unknown keys, infinities and NaN are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
