r"""JSON for what travels to workers and is not JSON by itself: dates and times, bytes, decimals; arrays become lists.

>>> from datetime import date
>>> decode(encode([date(2026, 1, 2), b"\x00", {"a": (1, None)}]))
[datetime.date(2026, 1, 2), b'\x00', {'a': [1, None]}]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

TAG = "\0"
"""Starts the only key of an object that stands for a value of another type: no column is called so."""
READERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "bytes": bytes.fromhex,
    "decimal": Decimal,
}


def encode(value: Any) -> str:
    """The value as one line of ASCII.

    Raises:
        TypeError, ValueError: it holds something that JSON and the types above can't express.
    """
    return json.dumps(value, default=_tagged, separators=(",", ":"))


def decode(text: str | bytes) -> Any:
    """What `encode` was given, with lists for tuples and arrays."""
    return json.loads(text, object_hook=_untagged)


def _tagged(value: Any) -> Any:
    if isinstance(value, datetime):  # which is a date too
        return {f"{TAG}datetime": value.isoformat()}
    if isinstance(value, date):
        return {f"{TAG}date": value.isoformat()}
    if isinstance(value, time):
        return {f"{TAG}time": value.isoformat()}
    if isinstance(value, timedelta):
        return {f"{TAG}timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, bytes):
        return {f"{TAG}bytes": value.hex()}
    if isinstance(value, Decimal):
        return {f"{TAG}decimal": str(value)}
    if hasattr(value, "tolist"):  # numpy's arrays and scalars, without importing numpy in every worker
        return value.tolist()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


def _untagged(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        (key, value) = next(iter(found.items()))
        if key.startswith(TAG) and key[1:] in READERS:
            return READERS[key[1:]](value)
    return found
