"""What a worker does with the user's reward functions: import them, call them, and say what went wrong where.

Functions are called by keyword, with what TRL passes. One whose parameter is called `completion` is called for one
completion at a time, any other once with whole lists. The user's code may raise anything, SystemExit and
KeyboardInterrupt included, and none of it ends the worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from prepo_cli.errors import one_line

LARGEST = 1e9
"""In size, of a value: sums and squares of larger ones lose their digits, or overflow."""
LOGGERS: dict[str, Callable[..., None]] = {
    name: lambda *arguments, **more: None for name in ("log_extra", "log_metric")
}
"""What TRL's functions log with; those that name them get them, without effect."""


class LoadError(Exception):
    """A function can't be imported; the message says which and why."""


class Signature(NamedTuple):
    """How a function is called: with the arguments that it names, or with `everything`."""

    names: list[str]
    required: list[str]
    everything: bool

    @property
    def one_at_a_time(self) -> bool:
        """Whether it is called for each completion by itself."""
        return "completion" in self.names and "completions" not in self.names


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's."""

    call: Callable[..., Any]
    signature: Signature


def load(functions: Mapping[str, str]) -> dict[str, OwnFunction]:
    """The functions behind paths such as `package.module:function`, by name.

    Raises:
        LoadError: a module that does not import, or a name in it that is not a function.
    """
    return {name: _load(name, path) for name, path in functions.items()}


def _load(name: str, path: str) -> OwnFunction:
    from strategies import own_code  # in the worker: the package loads numpy, and a server with threads can't fork

    try:
        function = own_code.load(path)
    except BaseException as error:
        raise LoadError(f"reward '{name}' {own_code.import_fault(error)}") from None
    if not callable(function):
        raise LoadError(f"reward '{name}' is of type {type(function).__name__}; name a function")
    return OwnFunction(function, signature_of(function))


def signature_of(function: Callable[..., Any]) -> Signature:
    """How to call a function; with all arguments if its signature is unknown.

    >>> signature_of(lambda completions, level=1: [])
    Signature(names=['completions', 'level'], required=['completions'], everything=False)
    >>> signature_of(lambda prompt, completion, **columns: 1.0).one_at_a_time
    True
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return Signature([], [], everything=True)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Signature(
        names=[p.name for p in named],
        required=[p.name for p in named if p.default is p.empty],
        everything=any(p.kind == p.VAR_KEYWORD for p in parameters),
    )


def answer(functions: Mapping[str, OwnFunction], job: Sequence[Any]) -> dict[str, Any]:
    """The answer to a job: a function's name, the number of completions, and lists of so many values by argument.

    `values` has a number for each completion, None, or a text that says what is wrong with its value; `fault` says what
    the call raised and where; `breach` says that what came back is no list of the right length.
    """
    name, count, arguments = job
    function = functions[name]
    try:
        if function.signature.one_at_a_time:
            values: list[Any] = [_called(function, {key: column[0] for key, column in arguments.items()})]
        else:
            loggers = {key: log for key, log in LOGGERS.items() if key in function.signature.names}
            returned = _called(function, {**arguments, **loggers})
            if isinstance(returned, (str, bytes, Mapping)) or not hasattr(returned, "__iter__"):
                return {"breach": f"returned {type(returned).__name__}; return a list with one value per completion"}
            values = list(islice(returned, count + 1))
        numbers = [number(value) for value in values]
    except BaseException as error:
        from strategies import places

        place = places.of_error(error, function.call)
        return {"fault": f"failed{place and f' at {place}'}: {described(error)}"}
    if len(numbers) != count:
        found = f"more than {count}" if len(numbers) > count else str(len(numbers))
        return {"breach": f"returned {found} values for {count} completions; return one per completion"}
    if any(isinstance(value, str) for value in numbers):
        from strategies import places

        place = places.of_function(function.call)
        numbers = [f"{v}{place and f' ({place})'}" if isinstance(v, str) else v for v in numbers]
    return {"values": numbers}


def _called(function: OwnFunction, arguments: Mapping[str, Any]) -> Any:
    """What a function returns; a coroutine's result."""
    returned = function.call(**arguments)
    if not inspect.isawaitable(returned):
        return returned
    import asyncio

    async def awaited() -> Any:
        return await returned

    return asyncio.run(awaited())


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
