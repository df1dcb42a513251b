"""The examples in the docstrings of both packages show what they say; a module that has one is found by itself."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OF_OTHER_TRAINERS = ("trl", "verl")
"""Modules that import another trainer; the tests of that trainer's adapter run their examples."""
FILES = [file for package in ("strategies", "prepo_cli") for file in sorted((ROOT / package).rglob("*.py"))]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
    if ">>> " in file.read_text(encoding="utf-8") and not file.name.startswith(OF_OTHER_TRAINERS)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0, "the example is in a comment or text, where nothing runs it"
    assert result.failed == 0
