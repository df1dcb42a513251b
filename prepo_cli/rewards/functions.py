r"""Reward functions: the built-in `exact` and `boxed`, and the user's own as `package.module:function`.

A reward function is `f(prompts, completions, **columns) -> list[float | None]`, as in TRL; `columns` holds lists with
an entry for each completion, among them `answer`. None means that it does not apply to that completion.
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
    """1 if the completion, stripped, is exactly the answer or one of its alternatives."""
    return [
        float(completion.strip() in {gold.strip() for gold in alternatives(golds)}) if alternatives(golds) else None
        for completion, golds in zip(completions, answer, strict=True)
    ]


def boxed(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float | None]:
    r"""1 if the last \boxed{} holds the answer, one of its alternatives, or all of them separated by commas."""
    rewards: list[float | None] = []
    for completion, golds in zip(completions, answer, strict=True):
        texts = [normalise(gold) for gold in alternatives(golds)]
        found = final_answer(completion)
        rewards.append(float(found is not None and found in {*texts, ",".join(texts)}) if texts else None)
    return rewards


BUILT_IN: dict[str, RewardFunction] = {"exact": exact, "boxed": boxed}


def find(name: str) -> RewardFunction:
    """The function behind a built-in name other than `math`, or behind `package.module:function`.

    Raises:
        UsageError: an unknown name, a module that does not import, or a name in it that is not a function.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        known = [MATH, *BUILT_IN]
        hint = did_you_mean(name, known)
        raise UsageError(f"unknown reward '{name}'{hint}; known: {', '.join(known)}, package.module:function")
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's own module may raise anything
        cure = "; add its folder to PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"reward '{name}' fails to import: {type(error).__name__}: {error}{cure}") from error
    if not callable(function):
        raise UsageError(f"reward '{name}' is of type {type(function).__name__}; name a function")
    own: RewardFunction = function
    return own
