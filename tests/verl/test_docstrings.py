"""The examples in the docstrings of the modules that import verl, or that verl imports."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import prepo_cli.integrations

FOLDER = Path(prepo_cli.integrations.__file__).parent
NAMES = [file.stem for file in sorted(FOLDER.glob("verl*.py")) if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(f"prepo_cli.integrations.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0
