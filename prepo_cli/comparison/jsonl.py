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


def read_columns(path: Path) -> dict[str, FloatArray]:
    """The numbers of a JSONL file as columns over its lines, NaN where a line lacks one; none without such a file.

    True and false count as 1 and 0; text, lists and nulls are skipped.

    Raises:
        UsageError: a line is not a JSON object.
    """
    path, data = _read(path)
    columns = _arrow_columns(data)
    return _line_columns(path, _lines(data)) if columns is None else columns


def _arrow_columns(data: bytes) -> dict[str, FloatArray] | None:
    """What pyarrow reads, three times as fast; None where it refuses or may see other lines than we do."""
    if not data.isascii() or not data:
        return None
    import pyarrow as pa
    from pyarrow import json as arrow_json

    try:
        table = arrow_json.read_json(pa.BufferReader(data))
    except pa.ArrowException:
        return None
    if table.num_rows != data.count(b"\n") + (not data.endswith(b"\n")):
        return None
    columns = {name: column for name, column in zip(table.column_names, table.columns) if _is_number(column.type)}
    return {name: column.cast(pa.float64(), safe=False).to_numpy() for name, column in columns.items()}


def _line_columns(path: Path, lines: Sequence[str]) -> dict[str, FloatArray]:
    columns: dict[str, array[float]] = {}
    for number, row in objects(path, lines):
        for key, value in row.items():
            try:
                columns[key][number] = value
            except KeyError:
                if isinstance(value, int | float):
                    columns[key] = array("d", [np.nan]) * len(lines)
                    columns[key][number] = value
            except TypeError:
                continue
    return {key: np.frombuffer(column) for key, column in columns.items()}


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none without such a file.

    Raises:
        UsageError: a line is not a JSON object.
    """
    return [row for _, row in objects(*_read_lines(path))]


def _read_lines(path: Path) -> tuple[Path, list[str]]:
    """The lines of a file or of its gzipped copy, with the path of what was read; none without either."""
    zipped = path.with_name(path.name + ".gz")
    if path.is_file() or not zipped.is_file():
        return path, path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    try:
        with gzip.open(zipped, "rt", encoding="utf-8", errors="replace") as file:
            return zipped, file.read().splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{zipped} is damaged ({error}); copy it again from where the run was made") from error


def objects(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line, with its index.

    Raises:
        UsageError: a line holds anything else.
    """
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise UsageError(f"{path}:{number + 1}: not a JSON object; mend or delete this line")
        yield number, row
