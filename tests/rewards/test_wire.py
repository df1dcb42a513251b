from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli.rewards.wire import decode, encode

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters()),  # lone surrogates among them
    st.binary(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
)
cells = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same type all the way down; of zoned times the moment and the offset are kept."""
    if isinstance(one, datetime) and one.tzinfo is not None:
        return one == other.astimezone(one.tzinfo) or one.utcoffset() == other.utcoffset()
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and (one == other) and (one != 0.0 or str(one) == str(other))


@given(cells)
@settings(max_examples=40)
def test_what_arrives_is_what_was_sent(cell: Any) -> None:
    line = encode(cell)
    assert line.isascii() and "\n" not in line
    assert same(cell, decode(line))


def test_golden() -> None:
    assert encode([timedelta(1, 2, 3), b"\xff"]) == '[{"\\u0000timedelta":[1,2,3]},{"\\u0000bytes":"ff"}]'
    assert decode(encode((1, np.array([[1.5], [2.5]]), np.float32(0.5), np.int64(7)))) == [1, [[1.5], [2.5]], 0.5, 7]
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize("value", [object(), {1, 2}, [print]])
def test_what_no_json_holds_is_refused_by_the_name_of_its_type(value: Any) -> None:
    inner = value[0] if isinstance(value, list) else value
    with pytest.raises(TypeError, match=type(inner).__qualname__):
        encode({"a": value})
