"""Choose a dataset's prompt and answer columns, and read their cells."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from prepo_cli.data.rows import NUMBER
from prepo_cli.errors import UsageError
from prepo_cli.rewards.answers import last_boxed
from prepo_cli.rewards.messages import question_of
from prepo_cli.text import brief
from strategies.registry import did_you_mean

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
ANSWER_COLUMNS = (
    "answer",
    "final_answer",
    "ground_truth",
    "target",
    "reward_model.ground_truth",
    "solution",
    "messages.assistant",
)
ASSISTANT = "assistant"
"""The role whose turn ends a conversation, and the field by which `cell` finds it."""
LABEL_COLUMNS = ("id", "source")
NUMBER_COLUMNS = ("difficulty", "rank", "ppl", "pass_rate")
_QUOTED = r"""(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")"""
TEXTS = re.compile(rf"\[\s*+{_QUOTED}\s*+(?:,\s*+{_QUOTED}\s*+)*+,?\s*+\]")
"""A flat list of quoted strings."""
MAX_LIST_CHARS = 2**16
SHOWN_CHARS = 400
"""Of a list of column names."""


def choose(given: str | None, known: Sequence[str], columns: Sequence[str], what: str, dataset: str) -> str:
    """The given column, or the first known one that the dataset has; nested columns are written `column.field`.

    Raises:
        UsageError: the dataset lacks the column.
    """
    available = brief(", ".join(columns), SHOWN_CHARS)
    if given is not None:
        if given not in columns:
            raise UsageError(f"{dataset} has no column '{given}'{did_you_mean(given, columns)}; known: {available}")
        return given
    for name in known:
        if name in columns:
            return name
    cure = f"choose one of {available} with --{what}-column"
    if what == "answer":
        cure += ", or a reward that needs no answers with --reward"
    raise UsageError(f"{dataset} has no {what} column ({', '.join(known)}); {cure}")


def messages_of(cell: Any) -> list[dict[str, str]]:
    """A prompt cell as chat messages; plain text becomes one user message.

    If the assistant has the last turn, it is the answer, which the prompt ends before.

    Raises:
        ValueError: the cell is not a valid prompt.
    """
    if isinstance(cell, str):
        if not cell.strip():
            raise ValueError("the prompt is empty")
        return [{"role": "user", "content": cell}]
    if not isinstance(cell, Sequence) or not cell:
        raise ValueError("the prompt is missing" if cell is None or cell == [] else f"invalid prompt {cell!r:.60}")
    for message in cell:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or not message.get("role"):
            raise ValueError("the prompt is neither text nor a list of messages with role and content")
    while cell and cell[-1]["role"] == ASSISTANT:
        cell = cell[:-1]
    if not cell:
        raise ValueError("the prompt contains only assistant turns")
    if not question_of(cell).strip():
        raise ValueError("the prompt's last message is empty")
    return [{"role": str(message["role"]), "content": message["content"]} for message in cell]


def prompt_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as it is recorded: its text if it is one user message, else its messages as JSON.

    >>> prompt_text([{"role": "user", "content": "1 + 1?"}])
    '1 + 1?'
    >>> prompt_text([{"role": "system", "content": "Be brief."}])
    '[{"role": "system", "content": "Be brief."}]'
    """
    is_text = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if is_text else json.dumps(list(messages), ensure_ascii=False)


def gold_text(answer: str | list[str] | None) -> str | None:
    """A gold answer as it is recorded: its text, several as JSON, None if there is none.

    >>> gold_text("2"), gold_text(["2", "two"])
    ('2', '["2", "two"]')
    """
    return json.dumps(answer, ensure_ascii=False) if isinstance(answer, list) else answer


def answer_of(cell: Any) -> str | list[str]:
    """A gold answer cell as one string, or as a list of alternative or joint answers.

    Raises:
        ValueError: the cell is not a valid answer.
    """
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        cell = _parse_list(cell)
    if isinstance(cell, list | tuple):
        answers = [_final_answer(entry) for entry in cell if entry is not None]
        if not answers or not all(answers):
            raise ValueError("the answer is empty")
        return answers[0] if len(answers) == 1 else answers
    if cell is None:
        raise ValueError("the answer is missing")
    answer = _final_answer(cell)
    if not answer:
        raise ValueError("the answer is empty")
    return answer


def number_of(value: Any, name: str) -> float | None:
    """A cell of a column of numbers, which may hold their text; None if it is missing.

    Raises:
        ValueError: the cell holds no number, or infinity.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    plain = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if plain or (isinstance(value, str) and NUMBER.fullmatch(value)):
        number = float(value)
        if math.isfinite(number):
            return number
    raise ValueError(f"the {name} is not a number: {value!r:.60}")


def cell(row: Mapping[str, Any], column: str) -> Any:
    """A cell of a column, or of a field of a nested column; None if the row lacks it.

    The field `assistant` of a conversation is its last turn, if that is the assistant's.

    >>> chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    >>> cell({"messages": chat}, "messages.assistant"), cell({"messages": chat[:1]}, "messages.assistant")
    ('2', None)
    """
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    nested = row.get(outer)
    if inner == ASSISTANT and isinstance(nested, list) and nested and isinstance(nested[-1], Mapping):
        return nested[-1].get("content") if nested[-1].get("role") == ASSISTANT else None
    return nested.get(inner) if isinstance(nested, Mapping) else None


def _parse_list(text: str) -> Any:
    """Parse a list of strings stored as text, as in OlympiadBench; an interval such as [1, 2] stays text.

    Only what is flat reaches Python's parser, so no text can exhaust its stack.
    """
    if len(text) > MAX_LIST_CHARS or not TEXTS.fullmatch(text.strip()):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):  # an escape that is none
        return text


def _final_answer(value: Any) -> str:
    r"""The final answer of a worked solution: the text after GSM8K's ####, in the last \boxed{}, or all of it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"invalid answer {value!r:.60}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if "####" in text:
        return text.rsplit("####", 1)[1].strip()
    boxed = last_boxed(text)
    return (boxed if boxed is not None else text).strip()
