r"""Reward functions that the papers' runs use in addition to `math`; run.py puts this folder on the Python path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prepo_cli.rewards.answers import last_boxed


def has_box(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    r"""1 if the completion has a complete, non-empty \boxed{}, whatever its content."""
    return [float(bool((last_boxed(completion) or "").strip())) for completion in completions]


def even_length(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """1 if the completion's number of characters is even: a signal for tiny random models, which are never correct."""
    return [float(len(completion) % 2 == 0) for completion in completions]
