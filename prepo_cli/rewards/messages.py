"""Prompts and completions as reward functions get them: text, or chat messages where the prompt is chat messages.

This is TRL's convention. The functions built in, and those of one completion at a time, get text in either case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Prompt = str | Sequence[Mapping[str, Any]]
"""A dataset's prompt: text, or chat messages with role and content."""


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message, or of the last message if none is the user's."""
    from_user = [message["content"] for message in messages if message["role"] == "user"]
    return str(from_user[-1] if from_user else messages[-1]["content"])


def as_text(prompt: Prompt) -> str:
    """The prompt, or of chat messages the question."""
    return prompt if isinstance(prompt, str) else question_of(prompt)


def reply(prompt: Prompt, completion: str) -> str | list[dict[str, str]]:
    """The completion in the form of its prompt.

    >>> reply("2 + 2?", "4"), reply([{"role": "user", "content": "2 + 2?"}], "4")
    ('4', [{'role': 'assistant', 'content': '4'}])
    """
    return completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
