r"""Reward functions: the built-in `exact` and `boxed`, and the user's own by dotted path.

A reward function is `f(prompts, completions, **columns) -> list[float | None]`, as in TRL; `columns` holds lists with
an entry for each completion, among them `answer`. None means: not applicable to this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from prepo_cli.errors import UsageError
from prepo_cli.rewards.answers import alternatives, final_answer, normalise
from strategies.registry import did_you_mean

RewardFunction = Callable[..., Sequence[float | None]]
MATH = "math"


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the completion, stripped, is the answer to the letter, or one of its alternatives."""
    return [
        float(completion.strip() in {gold.strip() for gold in alternatives(golds)}) if alternatives(golds) else None
        for completion, golds in zip(completions, answer, strict=True)
    ]


def boxed(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    r"""1 if the last \boxed{} holds the answer, one of its alternatives, or all of them with commas between."""
    rewards: list[float | None] = []
    for completion, golds in zip(completions, answer, strict=True):
        texts = [normalise(gold) for gold in alternatives(golds)]
        found = final_answer(completion)
        rewards.append(float(found is not None and found in {*texts, ",".join(texts)}) if texts else None)
    return rewards


BUILT_IN: dict[str, RewardFunction] = {"exact": exact, "boxed": boxed}


def find(name: str) -> RewardFunction:
    """The function of a built-in name other than `math`, or of a dotted path.

    Raises:
        UsageError: no such name, the path does not import, or what it names can't be called.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        known = [MATH, *BUILT_IN]
        hint = did_you_mean(name, known)
        raise UsageError(f"no reward '{name}'{hint}; there are: {', '.join(known)}, or package.module:function")
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's own module may raise anything
        cure = "; its folder must be on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"reward '{name}' does not import: {type(error).__name__}: {error}{cure}") from error
    if not callable(function):
        raise UsageError(f"reward '{name}' is a {type(function).__name__}, not a function")
    own: RewardFunction = function
    return own
