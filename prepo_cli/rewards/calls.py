"""What a worker does with the user's reward functions: import them, call them, and say what went wrong where.

A function whose parameter is called `completion` is called for one completion at a time, any other once with whole
lists. The user's code may raise anything, SystemExit and KeyboardInterrupt included, and none of it ends the worker.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from prepo_cli.errors import one_line
from prepo_cli.rewards import places

LARGEST = 1e9
"""In size, of a value: sums and squares of larger ones lose their digits, or overflow."""


class LoadError(Exception):
    """A function can't be imported; the message says which and why."""


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's, and whether it takes one completion at a time."""

    call: Callable[..., Any]
    one_at_a_time: bool


def load(names: Sequence[str]) -> dict[str, OwnFunction]:
    """The functions behind `package.module:function`, by name.

    Raises:
        LoadError: a module that does not import, or a name in it that is not a function.
    """
    return {name: _load(name) for name in names}


def _load(name: str) -> OwnFunction:
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except BaseException as error:
        place = places.of_error(error)
        cure = "; add its folder to PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise LoadError(
            f"reward '{name}' fails to import{place and f' at {place}'}: {described(error)}{cure}"
        ) from None
    if not callable(function):
        raise LoadError(f"reward '{name}' is of type {type(function).__name__}; name a function")
    return OwnFunction(function, takes_one(function))


def takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `completion`, and none `completions`.

    >>> takes_one(lambda prompt, completion, **columns: 1.0), takes_one(lambda prompts, completions, **columns: [])
    (True, False)
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False
    return "completion" in parameters and "completions" not in parameters


def answer(functions: Mapping[str, OwnFunction], job: Sequence[Any]) -> dict[str, Any]:
    """The answer to a job, which is a function's name, prompts, completions and columns, all of them lists.

    `values` has a number for each completion, None, or a text that says what is wrong with its value; `fault` says what
    the call raised and where; `breach` says that what came back is no list of the right length.
    """
    name, prompts, completions, columns = job
    function = functions[name]
    try:
        if function.one_at_a_time:
            single = {key: values[0] for key, values in columns.items() if key not in ("prompt", "completion")}
            values: list[Any] = [function.call(prompt=prompts[0], completion=completions[0], **single)]
        else:
            returned = function.call(prompts, completions, **columns)
            if isinstance(returned, (str, bytes, Mapping)) or not hasattr(returned, "__iter__"):
                return {"breach": f"returned {type(returned).__name__}; return a list with a value for each completion"}
            values = list(islice(returned, len(completions) + 1))
        numbers = [number(value) for value in values]
    except BaseException as error:
        place = places.of_error(error, function.call)
        return {"fault": f"failed{place and f' at {place}'}: {described(error)}"}
    if len(numbers) != len(completions):
        count = f"more than {len(completions)}" if len(numbers) > len(completions) else str(len(numbers))
        return {"breach": f"returned {count} values for {len(completions)} completions; return one each"}
    if any(isinstance(value, str) for value in numbers):
        place = places.of_function(function.call)
        numbers = [f"{v}{place and f' ({place})'}" if isinstance(v, str) else v for v in numbers]
    return {"values": numbers}


def number(value: Any) -> float | str | None:
    """A value as a number of at most LARGEST in size; None stays; a text names anything else.

    >>> number(True), number(None), number(float("nan")), number(1e300), number("0.5")
    (1.0, None, 'nan', '1e+300', "'0.5'")
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        return repr(value[:20])
    try:
        converted = float(value.item() if hasattr(value, "item") else value)  # arrays and tensors of one element
    except Exception:  # the value may be of any type
        return f"a value of type {type(value).__name__}"
    return converted if abs(converted) <= LARGEST else str(converted)


def described(error: BaseException) -> str:
    """Type and message, on one line.

    >>> described(ValueError("too long")), described(AssertionError())
    ('ValueError: too long', 'AssertionError')
    """
    kind = type(error).__name__
    try:
        text = one_line(error)
    except Exception:  # its __str__ is the user's as well
        return kind
    return kind if text == kind else f"{kind}: {text}"
