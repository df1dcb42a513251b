r"""Reward functions of the papers' runs beside `math`; run.py's folder makes them importable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prepo_cli.rewards.answers import last_boxed


def has_box(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    r"""1 if the completion has a whole \boxed{} that is not empty, whatever stands in it."""
    return [float(bool((last_boxed(completion) or "").strip())) for completion in completions]


def even_length(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """1 if the completion has an even number of characters: for tiny random models, which are never right."""
    return [float(len(completion) % 2 == 0) for completion in completions]
