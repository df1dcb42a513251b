"""Small plots for the terminal, drawn with the 2 x 4 dots of braille characters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prepo_cli.statistics import FloatArray

ACROSS, DOWN = 2, 4
"""Dots of a character."""
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
BLANK = 0x2800
Bounds = tuple[float, float]


def draw(x_N: FloatArray, y_N: FloatArray, across: Bounds, up: Bounds, width: int, height: int) -> list[str]:
    """A line through the points as rows of characters from the top down, on axes with the bounds `across` and `up`.

    Points that share a column of dots are averaged, columns between them interpolated. Values beyond the bounds are
    drawn at them, those that are not finite left out.

    >>> for row in draw(np.arange(9), np.array([0, 1, 2, 3, 4, 3, 2, 1, 0]), (0, 8), (0, 4), width=9, height=2):
    ...     print(row)
      ⣀⠔⠑⠢⣀
    ⡠⠊     ⠑⢄
    """
    known_N = np.isfinite(y_N)
    x_N, y_N = x_N[known_N].astype(np.float64), y_N[known_N].astype(np.float64)
    if not len(x_N):
        return [" " * width] * height
    dots = ACROSS * width
    used_U, place_N = np.unique(_places(x_N, across, dots), return_inverse=True)
    means_U = np.bincount(place_N, weights=y_N) / np.bincount(place_N)
    column_C = np.arange(used_U[0], used_U[-1] + 1)
    grid = np.zeros((DOWN * height, dots), dtype=np.bool_)
    grid[:, column_C] = _line(_places(np.interp(column_C, used_U, means_U), up, DOWN * height), DOWN * height)
    return _characters(grid)


def span(values_N: FloatArray, low: float | None = None, high: float | None = None) -> Bounds:
    """Bounds of an axis: those given, else the smallest and largest finite value, never both the same.

    >>> span(np.array([2.0, np.nan, 5.0]), low=0.0), span(np.array([3.0]))
    ((0.0, 5.0), (2.5, 3.5))
    """
    known_N = values_N[np.isfinite(values_N)]
    least = low if low is not None else float(known_N.min()) if len(known_N) else 0.0
    most = high if high is not None else float(known_N.max()) if len(known_N) else 1.0
    return (least, most) if least < most else (least if low is not None else least - 0.5, least + 0.5)


def compact(value: float) -> str:
    """A number in at most six characters.

    >>> [compact(value) for value in (0.62549, 3, 41.26, 1234.5, 32768, 1234567, float("nan"))]
    ['0.625', '3', '41.3', '1,234', '32.8k', '1.23M', '-']
    """
    if not np.isfinite(value):
        return "-"
    for unit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            scaled = value / (1e3 if suffix == "k" else unit)
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 1000 else f"{scaled:.0f}{suffix}"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _places(values_N: FloatArray, bounds: Bounds, dots: int) -> npt.NDArray[np.int64]:
    """The dot of each value on an axis."""
    low, high = bounds
    return np.rint((np.clip(values_N, low, high) - low) / (high - low) * (dots - 1)).astype(np.int64)


def _line(level_C: npt.NDArray[np.int64], down: int) -> npt.NDArray[np.bool_]:
    """Which dots are set [down, C]: each column's, and those that join it to the column before."""
    before_C = np.concatenate([level_C[:1], level_C[:-1]])
    next_C = before_C + np.sign(level_C - before_C)
    row_D = np.arange(down)[::-1, None]
    return np.asarray((row_D >= np.minimum(next_C, level_C)) & (row_D <= np.maximum(next_C, level_C)))


def _characters(grid: npt.NDArray[np.bool_]) -> list[str]:
    down, across = grid.shape
    cells = (grid.reshape(down // DOWN, DOWN, across // ACROSS, ACROSS) * BITS[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(chr(BLANK + cell) if cell else " " for cell in row) for row in cells.tolist()]
