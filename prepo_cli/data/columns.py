"""Which columns of a dataset hold prompt and answer, and what a cell of them means."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from prepo_cli.errors import UsageError
from prepo_cli.rewards.answers import last_boxed
from strategies.registry import did_you_mean

PROMPT_COLUMNS = ("prompt", "question", "problem")
ANSWER_COLUMNS = (
    "answer",
    "final_answer",
    "ground_truth",
    "target",
    "reward_model.ground_truth",
    "solution",
)
OPTIONAL_COLUMNS = ("id", "source", "difficulty", "rank", "ppl")


def choose(given: str | None, known: Sequence[str], columns: Sequence[str], what: str, dataset: str) -> str:
    """The column given, or the first known one that is there; nested ones are written with a dot.

    Raises:
        UsageError: there is no such column; the message says which there are.
    """
    there = ", ".join(columns)
    if given is not None:
        if given not in columns:
            raise UsageError(f"{dataset} has no column '{given}'{did_you_mean(given, columns)}; there are: {there}")
        return given
    for name in known:
        if name in columns:
            return name
    raise UsageError(
        f"{dataset} has no {what} column ({', '.join(known)}); there are: {there}; name it with --{what}-column"
    )


def messages_of(cell: Any) -> list[dict[str, str]]:
    """A prompt cell as chat messages; a plain text is one user message.

    Raises:
        ValueError: why the cell is no prompt.
    """
    if isinstance(cell, str):
        if not cell.strip():
            raise ValueError("the prompt is empty")
        return [{"role": "user", "content": cell}]
    if not isinstance(cell, Sequence) or not cell:
        raise ValueError("the prompt is missing" if cell is None or cell == [] else f"a prompt can't be {cell!r:.60}")
    for message in cell:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or not message.get("role"):
            raise ValueError("the prompt is neither text nor messages with role and content")
    if not question_of(cell).strip():
        raise ValueError("the prompt's last message is empty")
    return [{"role": str(message["role"]), "content": message["content"]} for message in cell]


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Text of the last user message (of the last message, if no user speaks)."""
    spoken = [message["content"] for message in messages if message["role"] == "user"]
    return spoken[-1] if spoken else messages[-1]["content"]


def answer_of(cell: Any) -> str | list[str]:
    """A gold cell as text, or as a list of texts: alternatives or several answers.

    Raises:
        ValueError: why the cell is no answer.
    """
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        cell = _listed(cell)
    if isinstance(cell, list | tuple):
        answers = [_reduced(entry) for entry in cell if entry is not None]
        if not answers or not all(answers):
            raise ValueError("the answer is empty")
        return answers[0] if len(answers) == 1 else answers
    if cell is None:
        raise ValueError("the answer is missing")
    answer = _reduced(cell)
    if not answer:
        raise ValueError("the answer is empty")
    return answer


def _listed(text: str) -> Any:
    """A list of texts that was written as text, as OlympiadBench's are; an interval such as [1, 2] stays text."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) and value and all(isinstance(v, str) for v in value) else text


def _reduced(value: Any) -> str:
    """The answer within a worked text: after GSM8K's ####, in the last box, or the text itself."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"an answer can't be {value!r:.60}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if "####" in text:
        return text.rsplit("####", 1)[1].strip()
    boxed = last_boxed(text)
    return (boxed if boxed is not None else text).strip()
