"""Reward functions whose values the tests choose."""

from __future__ import annotations

import math
from typing import Any


def sometimes(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """None (not applicable) for a completion without a box, NaN (an error) for some, else a share of its length."""
    values: list[float | None] = []
    for completion in completions:
        if "boxed" not in completion:
            values.append(None)
        else:
            values.append(math.nan if completion.endswith("7}") else len(completion) / 20)
    return values


def first(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """The values of the column 'first'."""
    return list(columns["first"])


def second(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """The values of the column 'second'."""
    return list(columns["second"])


def always(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1, as a reward for short answers often is."""
    return [1.0] * len(completions)
