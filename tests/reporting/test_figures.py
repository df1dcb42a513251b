"""Titles of figures are shown as they are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from prepo_cli.reporting.figures import LONGEST_TITLE, canvas, drawable, perplexity_histogram, set_title


@pytest.mark.parametrize("name", ["$x_{$", r"$\frac{$", "a$b$c", "\x1b[31m", "統計\n" * 100, "_x", "", "%s {0}"])
def test_any_name_can_be_a_title(name: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perplexity_histogram(np.array([1.0, 2.0, 30.0]), path, name)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_title_is_literal_and_short(tmp_path: Path) -> None:
    with canvas(tmp_path / "figure.png") as axes:
        set_title(axes, "$x^2$ " + "long " * 100)
        title = axes.get_title(loc="left")
        assert title.startswith("$x^2$ long") and len(title) == LONGEST_TITLE
        assert not axes._left_title.get_parse_math()
    assert drawable("a\tb\x1b", 10) == r"a b\x1b"
