"""Lines of JSON objects, plain or gzipped, as objects or as columns of numbers."""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.errors import UsageError
from prepo_cli.statistics import FloatArray

BLOCK_BYTES = 2**22
"""Bytes that pyarrow parses at a time, in parallel; a longer line is read without it."""
MOST = 2**1000
"""Whole numbers from here on are skipped as no float holds them."""


def read_columns(path: Path) -> dict[str, FloatArray]:
    """The numbers of a JSONL file as columns over its lines, NaN where a line lacks one; none without such a file.

    True and false count as 1 and 0; text, lists and nulls are skipped.

    Raises:
        UsageError: a line is not a JSON object.
    """
    path, content = _read(path)
    columns = _columns_by_arrow(content)
    return _columns_by_line(path, _lines(content)) if columns is None else columns


def read_objects(path: Path, growing: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none without such a file.

    Args:
        growing: leave out a last line without an end, which is being written or was when its writer was killed.

    Raises:
        UsageError: a line is not a JSON object.
    """
    path, content = _read(path)
    if growing:
        content = content[: content.rfind(b"\n") + 1]
    return [row for _, row in objects(path, _lines(content))]


def objects(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line, with its index.

    Raises:
        UsageError: a line holds anything else.
    """
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError(f"{path}:{number + 1}: not a JSON object; fix or delete this line")
        yield number, row


def _read(path: Path) -> tuple[Path, bytes]:
    """The content of a file or of its gzipped copy, with the path of what was read; empty without either."""
    zipped = path.with_name(path.name + ".gz")
    if path.is_file() or not zipped.is_file():
        return path, path.read_bytes() if path.is_file() else b""
    try:
        return zipped, gzip.decompress(zipped.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{zipped} is damaged ({error}); copy it again from the original run") from error


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").splitlines()


def _columns_by_arrow(content: bytes) -> dict[str, FloatArray] | None:
    """The columns, three times as fast; None where pyarrow refuses what may yet be JSON, or finds other lines."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    characters = np.frombuffer(content, np.uint8)
    starts = np.append(0, np.flatnonzero(characters == ord("\n")) + 1)
    starts = starts[starts < len(content)]
    # pyarrow crashes on some lines that are no objects, such as a null.
    if not content.isascii() or (characters[starts] != ord("{")).any():
        return None
    numbers = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    try:
        table = arrow_json.read_json(pa.BufferReader(content), arrow_json.ReadOptions(block_size=BLOCK_BYTES))
    except pa.ArrowException:
        return None
    if table.num_rows != len(starts):
        return None
    return {
        field.name: table[i].cast(pa.float64(), safe=False).to_numpy()
        for i, field in enumerate(table.schema)
        if any(is_number(field.type) for is_number in numbers)
    }


def _columns_by_line(path: Path, lines: Sequence[str]) -> dict[str, FloatArray]:
    columns: dict[str, array[float]] = {}
    for number, row in objects(path, lines):
        for key, value in row.items():
            try:
                columns[key][number] = value
            except KeyError:
                if isinstance(value, float) or (isinstance(value, int) and abs(value) < MOST):
                    columns[key] = array("d", [np.nan]) * len(lines)
                    columns[key][number] = value
            except (TypeError, OverflowError):
                continue
    return {key: np.frombuffer(column) for key, column in columns.items()}
