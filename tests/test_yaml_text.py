"""YAML under limits: nothing but plain data comes out, quickly, and what is written is read back."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prepo_cli.config import read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.recipes import recipes
from prepo_cli.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_NODES, YamlError, dump, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers(-(10**99), 10**99) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)
SOUP = st.text(st.sampled_from("[]{}:,&*!|>'\"%@`?-#~=<.0123456789abenx_\\U \n\t") | st.characters(), max_size=60)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1 is not 1.0 and -0.0 not 0.0."""
    return repr(one) == repr(other)


@given(VALUES)
@example({"a": "1e5", "b": "2026-01-01", "c": "1_000", "d": "007", "e": "no", "f": "<<", "g": "=", "h": "0x1F"})
@example({"a": "1:30", "b": "~", "c": "", "d": "\x85\u2028", "e": "!x", "f": "&x", "g": 1e-06, "h": 1e16})
def test_what_is_written_is_read_back(value: Any) -> None:
    assert same(parse(dump(value)), value)


@given(VALUES)
def test_other_readers_find_the_same_texts(value: Any) -> None:
    assert yaml.safe_load(dump(value)) == value


@given(SOUP)
@settings(max_examples=500)
def test_any_text_is_data_or_refused(text: str) -> None:
    with suppress(YamlError):
        value = parse(text)
        assert same(parse(dump(value)), value)


def test_our_recipes_are_read_as_any_reader_does() -> None:
    for path in recipes().values():
        assert same(read_yaml(path), yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("-1.5E+3", -1500.0), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf), ("12", 12), ("-0", 0),
        ("0x_", "0x_"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("1:30", "1:30"), ("007", "007"), ("no", "no"),
        ("2026-99-99", "2026-99-99"), ("2026-01-02", "2026-01-02"), ("1" * 5000, "1" * 5000), ("true", True),
        ("~", None), ("", None), ("{a, b: }", {"a": None, "b": None}), ("--- 5", 5), ("<<", "<<"), ('"\\e"', "\x1b"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    assert same(parse(text), value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [1]\nb: [*a, *a]", "line 1: anchors (&)"),
        ("a: 1\nb: *a", "line 2: anchors (&) and aliases"),
        ("!!python/object/apply:os.system [ls]", "tags (!)"),
        ("!!binary aGk=", "tags (!)"),
        ("!!set {a}", "tags (!)"),
        ("!!timestamp 2026-01-01", "tags (!)"),
        ("! 5", "tags (!)"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is set twice"),
        ("1: 2", "a key is not text"),
        ("null: 2", "a key is not text"),
        ("? [a]\n: 1", "a key is not text"),
        ("a: 1\n---\nb: 2", "line 2: expected a single document"),
        ("\t[", "cannot start any token"),
        ("a\x1bb", "U+001B"),
        ("a\udc80b", "U+DC80"),
        ('"\\0"', "NUL"),
        ('"\\ud800"', "surrogate"),
        ('"\\UFFFFFFFF"', "too large"),
        ("%YAML " + "9" * 5000 + "\n---\na", "4300 digits"),
        ("[" * 10_000, f"more than {MAX_DEPTH} levels deep"),
        ("{a: " * 2_000, f"more than {MAX_DEPTH} levels deep"),
        ("- " * 5_000, f"more than {MAX_DEPTH} levels deep"),
        ("[" + "1," * (MAX_NODES + 1) + "]", f"more than {MAX_NODES:,} values"),
    ],
)
def test_what_is_refused_is_named(text: str, says: str) -> None:
    with pytest.raises(YamlError) as raised:
        parse(text)
    assert says in str(raised.value)


def test_an_alias_bomb_is_refused() -> None:
    levels = "".join(f"  a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
    with pytest.raises(YamlError, match="anchors"):
        parse(f"data:\n  a0: &a0 [x]\n{levels}")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_yaml(path) == {"seed": 1}
    for raw, says in (
        ("seed: 1\n".encode("utf-16"), "not UTF-8"),
        (b"seed: 1\nrecipe: \xff\n", "line 2: the byte 0xff"),
        (b"seed: 1\n#" + b"x" * MAX_BYTES, "larger than 256 KiB"),
    ):
        path.write_bytes(raw)
        with pytest.raises(UsageError, match=says) as raised:
            read_yaml(path)
        assert str(path) in str(raised.value)


def test_no_file_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            read_yaml(path)
