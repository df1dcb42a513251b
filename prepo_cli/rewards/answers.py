r"""Final answers: the content of a completion's last \boxed{}, and gold answers as text.

Only the last box counts, so a completion can't hedge with several; if the last box is never closed, there is no answer.
A completion without any box may state its answer after ####, as GSM8K's solutions do.
"""

from __future__ import annotations

import re
from typing import Any

BOX = re.compile(r"\\boxed\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
DECORATED = re.compile(
    r"(?:\\(?:textbf|mathbf|text|mathrm|textrm|boldsymbol)\s*\{)?\s*\(?\s*(-?\d+(?:\.\d+)?)\s*\)?\s*\}?\s*\.?"
)
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")


def last_boxed(completion: str) -> str | None:
    r"""Content of the last \boxed{} with balanced braces, as written; None if there is none."""
    # Searching for the command from the end is fast however long the completion is.
    start = completion.rfind("\\boxed")
    while start >= 0:
        opening = BOX.match(completion, start)
        if opening:
            return _balanced(completion, opening.end())
        start = completion.rfind("\\boxed", 0, start)
    return None


def given_answer(completion: str) -> str | None:
    r"""The answer a completion states, as `bare` leaves it: its last box, or without a box what follows its last ####.

    None if a box is never closed, whatever else the completion says.
    """
    content = last_boxed(completion)
    if content is None and not BOX.search(completion):
        marked = HASHES.findall(completion)
        content = marked[-1] if marked else None
    return None if content is None else bare(content)


def bare(answer: str) -> str:
    r"""A plain number stripped of markup such as \textbf{(73)} or the dot of 104.; any other answer unchanged."""
    decorated = DECORATED.fullmatch(answer.strip())
    return answer if decorated is None else decorated[1]


def final_answer(completion: str) -> str | None:
    """`given_answer`, normalized; None if there is none or it is empty."""
    content = given_answer(completion)
    return (normalize(content) or None) if content is not None else None


def normalize(answer: str) -> str:
    """The answer without whitespace, trailing dots and thousands separators."""
    compact = "".join(answer.split()).rstrip(".")
    return compact.replace("{,}", "").replace(",", "") if THOUSANDS.fullmatch(compact) else compact


def alternatives(gold: Any) -> tuple[str, ...]:
    """A gold answer as texts: one for a scalar, one for each entry of a list or array, none for None."""
    if gold is None:
        return ()
    if isinstance(gold, str):
        return (gold,)
    plain = gold.tolist() if hasattr(gold, "tolist") else gold  # parquet's lists may come as numpy arrays
    entries = plain if isinstance(plain, (list, tuple)) else [plain]
    return tuple(str(entry) for entry in entries if entry is not None)


def _balanced(text: str, start: int) -> str | None:
    depth = 1
    for brace in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return None
