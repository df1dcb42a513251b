"""Validate whole Arrow columns at once, so that ten million rows of plain text take seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prepo_cli.data.rows import MAX_ROW_BYTES, NUMBER
from prepo_cli.errors import one_line
from prepo_cli.text import brief


def rows_to_inspect(
    batch: pa.Table,
    prompt_column: str,
    answer_column: str | None,
    labels: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> Sequence[int]:
    """Rows of an Arrow table that may be bad: all of them, unless prompts and answers are text and the rest is plain.

    A text prompt is valid if it is not blank. So is a text answer, unless it may be a list or a worked solution, which
    has to be parsed. Columns of `labels` hold text or numbers, those of `numbers` finite numbers or their text.
    """
    wanted = [prompt_column] + ([answer_column] if answer_column else [])
    plain = all(name in batch.column_names and _is_text(batch[name].type) for name in wanted)
    plain &= all(_is_text(batch[name].type) or _is_number(batch[name].type) for name in [*labels, *numbers])
    if not plain:
        return range(len(batch))
    inspect = _blank(batch[prompt_column])
    if answer_column:
        answers = batch[answer_column]
        inspect = pc.or_(inspect, _blank(answers))
        for mark in ("####", "\\boxed", "["):
            inspect = pc.or_(inspect, pc.fill_null(pc.match_substring(answers, mark), True))
    for name in numbers:
        inspect = pc.or_(inspect, pc.invert(pc.fill_null(_numeric(batch[name]), True)))
    rows: list[int] = np.flatnonzero(inspect.to_numpy(zero_copy_only=False)).tolist()
    return rows


def broken_cells(batch: pa.RecordBatch | pa.Table) -> Iterator[tuple[int, str]]:
    """Rows with text that is not UTF-8, or with cells over the limit, and why; whole columns are checked first."""
    if _fault(batch) is not None:
        for row in range(len(batch)):
            fault = _fault(batch.slice(row, 1))
            if fault is not None:
                yield row, fault


def has_duplicates(table: Any, column: str) -> bool:
    """True if a column of a `datasets.Dataset` may repeat a value when compared as text; nulls don't count."""
    values = table.select_columns([column]).with_format("arrow")[:][column]
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        return True  # other types are compared row by row, as text
    return bool(pc.count_distinct(values, mode="only_valid").as_py() < len(values) - values.null_count)


def holds_numbers(table: Any, column: str) -> bool:
    """False if no value in a column of a `datasets.Dataset` is a number or its text, as in easy, medium, hard."""
    kind = table.data.table.schema.field(column).type
    if not _is_text(kind):
        return _is_number(kind) or isinstance(kind, pa.JsonType)
    batches = table.select_columns([column]).with_format("arrow").iter(100_000)
    return any(pc.any(_numeric(batch[column])).as_py() for batch in batches)


def _numeric(column: Any) -> Any:
    if _is_text(column.type):
        return pc.match_substring_regex(column, f"^(?:{NUMBER.pattern})$")
    return pc.invert(pc.is_inf(column.cast(pa.float64(), safe=False)))


def _fault(batch: pa.RecordBatch | pa.Table) -> str | None:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        return "it contains text that is not valid UTF-8" if "UTF8" in str(error) else one_line(error)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _is_text(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_ROW_BYTES:
            return f"the cell in '{brief(name)}' is longer than {MAX_ROW_BYTES // 2**20} MB"
    return None


def _blank(texts: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.fill_null(pc.equal(trimmed, ""), True)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))
