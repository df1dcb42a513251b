"""Plots of braille characters: against a naive drawing, and with properties that hold for every line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.watch.plot import compact, draw, span

SIZES = st.integers(1, 12)
NUMBERS = st.floats(-1e6, 1e6) | st.just(float("nan"))
DOTS = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
"""Row and column of each of a braille character's eight dots, in the order of their bits."""


def dots_of(lines: list[str]) -> set[tuple[int, int]]:
    """Row and column of every dot that is set."""
    return {
        (4 * row + down, 2 * column + across)
        for row, line in enumerate(lines)
        for column, character in enumerate(line)
        if character != " "
        for bit, (down, across) in enumerate(DOTS)
        if (ord(character) - 0x2800) >> bit & 1
    }


def naive_dots(
    x: list[float], y: list[float], low: float, high: float, width: int, height: int
) -> set[tuple[int, int]]:
    """The same line, drawn point by point."""
    columns: dict[int, list[float]] = {}
    for place, value in zip(x, y, strict=True):
        columns.setdefault(round((place - x[0]) / (x[-1] - x[0]) * (2 * width - 1)), []).append(value)
    found, level, before = set(), 0, None
    for column in range(2 * width):
        left, right = max(c for c in columns if c <= column), min(c for c in columns if c >= column)
        a, b = np.mean(columns[left]), np.mean(columns[right])
        value = a if left == right else a + (b - a) * (column - left) / (right - left)
        level = round((min(max(value, low), high) - low) / (high - low) * (4 * height - 1))
        joined = [level] if before in (None, level) else range(before, level, 1 if level > before else -1)
        for each in {level, *joined} - ({before} if before != level else set()):
            found.add((4 * height - 1 - each, column))
        before = level
    return found


@given(
    y=st.lists(st.integers(0, 64), min_size=2, max_size=40),
    width=SIZES,
    height=SIZES,
)
def test_a_line_is_drawn_as_point_by_point(y: list[int], width: int, height: int) -> None:
    values = [value / 8 for value in y]
    drawn = dots_of(draw(np.arange(len(y)), np.array(values), (0, len(y) - 1), (0, 8), width, height))
    naive = naive_dots(list(range(len(y))), values, 0, 8, width, height)
    assert len(drawn ^ naive) <= width // 2  # halves of a dot may be rounded either way
    assert {column for _, column in drawn} == {column for _, column in naive} == set(range(2 * width))


def test_a_golden_line() -> None:
    assert draw(np.arange(4), np.array([0.0, 1.0, 2.0, 3.0]), (0, 3), (0, 3), width=2, height=1) == ["⡠⠊"]
    assert dots_of(["⡠⠊"]) == {(3, 0), (2, 1), (1, 2), (0, 3)}
    assert draw(np.arange(2), np.array([0.0, 3.0]), (0, 1), (0, 3), width=1, height=1) == ["⡸"]
    assert draw(np.array([2.0]), np.array([3.0]), (0, 4), (0, 6), width=5, height=2) == ["  ⡀  ", "     "]


@given(st.lists(st.tuples(st.integers(0, 10**6), NUMBERS), max_size=200), SIZES, SIZES)
def test_any_values_fill_just_the_room(points: list[tuple[int, float]], width: int, height: int) -> None:
    x = np.array(sorted(place for place, _ in points), dtype=np.float64)
    y = np.array([value for _, value in points], dtype=np.float64)
    lines = draw(x, y, (0, 10**6), span(y), width, height)
    assert [len(line) for line in lines] == [width] * height
    assert all(character == " " or 0x2800 < ord(character) <= 0x28FF for line in lines for character in line)
    assert (set("".join(lines)) <= {" "}) == (not np.isfinite(y).any())


@given(st.lists(NUMBERS, max_size=20), st.none() | st.just(0.0), st.none() | st.just(1.0))
def test_a_span_has_a_width_and_holds_what_it_is_given(
    values: list[float], low: float | None, high: float | None
) -> None:
    least, most = span(np.array(values), low, high)
    assert least < most
    if low is None and high is None:
        assert all(least <= value <= most for value in values if np.isfinite(value))


@given(st.floats(-1e15, 1e15))
def test_numbers_stay_short_and_right(value: float) -> None:
    text = compact(value)
    assert len(text) <= 7
    units = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number = float(text.rstrip("kMGT").replace(",", "")) * units.get(text[-1], 1)
    assert number == pytest.approx(value, rel=0.006, abs=0.0005)
