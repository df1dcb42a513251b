"""The error raised on bad input or a broken contract; the command line prints its message as one line."""

from collections.abc import Mapping
from typing import Any

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list"}
_NEEDED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "finite_number": "finite",
    "literal_error": "{expected}",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number with fewer digits",
    **{f"{kind}_type": words for kind, words in _KINDS.items()},
    **{f"{kind}_parsing": words for kind, words in _KINDS.items()},
}
"""What is needed instead, by pydantic's type of error."""


class StrategyError(ValueError):
    """A bad name, bad parameter or broken contract. The message says what is wrong, where, and how to fix it."""


def fault(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, of one of the `errors()` of a pydantic ValidationError.

    >>> fault({"type": "greater_than_equal", "ctx": {"ge": 1}, "msg": "Input should be ..."})
    'must be at least 1'
    """
    needed = _NEEDED.get(error["type"])
    return error["msg"] if needed is None else f"must be {needed.format(**error.get('ctx', {}))}"
