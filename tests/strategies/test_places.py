from __future__ import annotations

import json
from pathlib import Path

import pytest

from strategies import places

HERE = "tests/strategies/test_places.py"


def fails() -> None:
    json.loads("{")


def test_an_error_inside_a_library_is_placed_where_the_user_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(json.JSONDecodeError) as caught:
        fails()
    line = fails.__code__.co_firstlineno + 1
    assert places.of_error(caught.value) == f"{HERE}:{line}"
    monkeypatch.chdir("/")
    assert places.of_error(caught.value) == f"{Path(__file__)}:{line}".removeprefix("/")


def test_where_no_line_of_the_users_is_known_the_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert places.of_error(ValueError(), fails) == f"{HERE}:{fails.__code__.co_firstlineno}"
    assert places.of_error(ValueError(), len) == places.of_function(len) == ""


def test_a_trace_is_placed_at_its_innermost_line_of_the_users() -> None:
    library = f'  File "{json.__file__}", line 9 in loads'
    ours = f'  File "{Path(places.__file__)}", line 3 in answer'
    assert places.of_trace([library, '  File "/home/me/own.py", line 7 in f', ours]) == "/home/me/own.py:7"
    assert places.of_trace([library, ours]) == f"{json.__file__}:9"
    assert places.of_trace([ours, "Extension modules: numpy"]) == places.of_trace([]) == ""
