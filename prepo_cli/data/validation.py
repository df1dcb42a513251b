"""Find every row of a table that can't be used, before training starts.

Text columns are checked as a whole (vectorised.py); only rows that may be bad are looked at one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa

from prepo_cli.data.columns import LABEL_COLUMNS, NUMBER_COLUMNS, answer_of, cell, messages_of, number_of
from prepo_cli.data.spill import is_json
from prepo_cli.data.vectorised import broken_cells, has_duplicates, rows_to_inspect
from prepo_cli.text import brief

ROWS_PER_CHECK = 10_000


def bad_rows(
    table: Any, prompt_column: str, answer_column: str | None, columns: Set[str], advance: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    """The index of each bad row of a `datasets.Dataset`, with the reason.

    Args:
        table: the rows.
        prompt_column, answer_column: may be nested: `column.field`.
        columns: the optional columns that are used.
        advance: is told how many rows were checked.
    """
    wanted = [prompt_column, *([answer_column] if answer_column else []), *sorted(columns)]
    narrow = table.select_columns(list(dict.fromkeys(column.partition(".")[0] for column in wanted)))
    seen: set[str] | None = set() if "id" in columns and has_duplicates(table, "id") else None
    labels, numbers = (sorted(columns & set(known)) for known in (LABEL_COLUMNS, NUMBER_COLUMNS))
    for start in range(0, len(narrow), ROWS_PER_CHECK):
        batch = narrow.with_format("arrow")[start : start + ROWS_PER_CHECK]
        broken = dict(broken_cells(batch))
        yield from ((start + offset, reason) for offset, reason in broken.items())
        if broken or seen is not None:
            rows = [row for row in range(len(batch)) if row not in broken]
        else:
            rows = list(rows_to_inspect(batch, prompt_column, answer_column, labels, numbers))
        for offset, row in zip(rows, _rows(batch, rows), strict=True):
            try:
                _refuse(row, prompt_column, answer_column, labels, numbers, seen)
            except ValueError as fault:
                yield start + offset, str(fault)
        advance(len(batch))


def _refuse(
    row: Mapping[str, Any],
    prompt_column: str,
    answer_column: str | None,
    labels: list[str],
    numbers: list[str],
    seen: set[str] | None,
) -> None:
    """Raise ValueError if the row can't be used; its id is added to those seen."""
    messages_of(cell(row, prompt_column))
    if answer_column is not None:
        answer_of(cell(row, answer_column))
    for name in labels:
        if isinstance(row[name], dict | list | bytes):
            raise ValueError(f"the {name} is neither text nor a number")
    for name in numbers:
        number_of(row[name], name)
    if seen is not None and row["id"] is not None:
        if str(row["id"]) in seen:
            raise ValueError(f"duplicate id '{brief(str(row['id']))}'")
        seen.add(str(row["id"]))


def _rows(batch: pa.Table, rows: list[int]) -> list[dict[str, Any]]:
    """Rows of an Arrow table in Python's types, JSON decoded."""
    found: list[dict[str, Any]] = batch.take(np.asarray(rows, dtype=np.int64)).to_pylist()
    for name in (field.name for field in batch.schema if is_json(field.type)):
        for row in found:
            row[name] = None if row[name] is None else json.loads(row[name])
    return found
