"""Reward functions of the tests, in a module that imports nothing large: their worker processes import it."""

from __future__ import annotations

from typing import Any


def short(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1 for completions without a step of work."""
    return [float("=" not in completion) for completion in completions]


def constant(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Nothing to learn from."""
    return [0.5] * len(completions)


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1 for a boxed 0."""
    return [float("{0}" in completion) for completion in completions]


def even_length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that a random model earns now and then."""
    return [float(len(completion) % 2 == 0) for completion in completions]
