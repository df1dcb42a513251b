r"""Final answers: the content of a completion's last \boxed{}, and gold answers as text.

Only the last box counts, so a completion can't hedge with several; a last box that is never closed is no answer.
"""

from __future__ import annotations

import re
from typing import Any

BOX = re.compile(r"\\boxed\s*\{")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")


def last_boxed(completion: str) -> str | None:
    r"""Content of the last \boxed{} with balanced braces, as written; None without one."""
    # Every box has this command in it, and finding its last place backwards costs nothing on long completions.
    start = completion.rfind("\\boxed")
    while start >= 0:
        opening = BOX.match(completion, start)
        if opening:
            return _balanced(completion, opening.end())
        start = completion.rfind("\\boxed", 0, start)
    return None


def final_answer(completion: str) -> str | None:
    r"""Normalised content of the last \boxed{}; None if there is none or it is empty."""
    content = last_boxed(completion)
    return (normalise(content) or None) if content is not None else None


def normalise(answer: str) -> str:
    """Without whitespace, trailing dots and thousands commas."""
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
