r"""Reward functions: the built-in `exact` and `boxed`, and the user's own by their paths.

A reward function is `f(prompts, completions, **columns) -> list[float | None]`, as in TRL; `columns` holds lists with
an entry for each completion, among them `answer`. None means that it does not apply to that completion. The user's own
are imported and run in worker processes (own.py); the built-in ones take time in proportion to the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prepo_cli.errors import UsageError
from prepo_cli.rewards.answers import alternatives, final_answer, normalize
from prepo_cli.rewards.messages import Prompt
from strategies.registry import did_you_mean

RewardFunction = Callable[..., Sequence[float | None]]
MATH = "math"


def exact(prompts: Sequence[Prompt], completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the completion, stripped, is exactly the answer or one of its alternatives."""
    return [
        float(completion.strip() in {gold.strip() for gold in alternatives(golds)}) if alternatives(golds) else None
        for completion, golds in zip(completions, answer, strict=True)
    ]


def boxed(prompts: Sequence[Prompt], completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    r"""1 if the last \boxed{} holds the answer, one of its alternatives, or all of them separated by commas."""
    rewards: list[float | None] = []
    for completion, golds in zip(completions, answer, strict=True):
        texts = [normalize(gold) for gold in alternatives(golds)]
        found = final_answer(completion)
        rewards.append(float(found is not None and found in {*texts, ",".join(texts)}) if texts else None)
    return rewards


BUILT_IN: dict[str, RewardFunction] = {"exact": exact, "boxed": boxed}


def find(name: str) -> RewardFunction | None:
    """The function behind a built-in name; None for `math` and the user's own, which worker processes run.

    Raises:
        UsageError: an unknown name.
    """
    if name == MATH or ":" in name:
        return None
    if name not in BUILT_IN:
        known = [MATH, *BUILT_IN]
        hint = f"; name its function: {name}:function" if name.endswith(".py") else did_you_mean(name, known)
        raise UsageError(f"unknown reward '{name}'{hint}; known: {', '.join(known)}, path/to/file.py:function")
    return BUILT_IN[name]
