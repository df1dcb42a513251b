"""Reward functions written for TRL's trainer, in the forms that its users write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def by_tokens(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """Names token ids alone."""
    return [float(len(ids)) for ids in completion_ids]


def by_reference(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float]:
    """Compares text with a column."""
    boxes = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    return [float(box is not None and box[1] == truth) for box, truth in zip(boxes, ground_truth, strict=True)]


def only_named(completions: list[str], level: list[int]) -> list[float]:
    """Has no **kwargs."""
    return [len(completion) + each for completion, each in zip(completions, level, strict=True)]


def of_task(prompts: list[Any], completions: list[Any], task: list[str], **kwargs: Any) -> list[float | None]:
    """None for the tasks of another function."""
    return [1.0 if each == "math" else None for each in task]


def chat(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
    """Messages in, messages out."""
    assert [prompt[-1]["role"] for prompt in prompts] == ["user"] * len(prompts)
    assert [message["role"] for completion in completions for message in completion] == ["assistant"] * len(completions)
    return [float(completion[0]["content"].startswith("<think>")) for completion in completions]


def as_given(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
    """1 where prompt and completion are text, 2 where both are messages."""
    assert "prompt" not in kwargs and "completion" not in kwargs
    assert [type(prompt) for prompt in prompts] == [type(completion) for completion in completions]
    return [1.0 if isinstance(prompt, str) else 2.0 for prompt in prompts]


def logs(
    completions: list[str],
    log_metric: Callable[[str, float], None],
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float]:
    """Logs as it goes."""
    assert log_extra is not None
    log_extra("length", [len(completion) for completion in completions])
    log_metric("count", len(completions))
    return [1.0] * len(completions)


async def asynchronous(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    """A coroutine."""
    import asyncio

    await asyncio.sleep(0)
    return [float(len(completion)) for completion in completions]


class Scaled:
    """A callable object, as TRL's own factories return."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, completions: list[str], answer: list[str] | None = None, **kwargs: Any) -> list[float]:
        return [self.factor * len(completion) for completion in completions]


scaled = Scaled(0.5)


def follows_training(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
    """Requires what only TRL's trainer has."""
    return [1.0 / trainer_state.max_steps] * len(completions)


def text_of_one(prompt: str, completion: str) -> float:
    """One completion at a time: text, whatever the prompt."""
    assert (prompt, completion) == ("2 + 2?", "four")
    return 1.0


def gold(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Requires gold answers."""
    return [float(completion == each) for completion, each in zip(completions, answer, strict=True)]


def passed(**kwargs: Any) -> list[float]:
    """How many arguments it gets: prompts, completions and level."""
    return [float(len(kwargs))] * len(kwargs["completions"])
