"""Validate whole Arrow columns at once, so that ten million rows of plain text take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rows_to_inspect(batch: pa.Table, prompt_column: str, answer_column: str | None) -> Sequence[int]:
    """Rows of an Arrow table that may be bad: all of them, unless both columns hold text.

    A text prompt is valid if it is not blank. So is a text answer, unless it may be a list or a worked solution, which
    has to be parsed.
    """
    wanted = [prompt_column] + ([answer_column] if answer_column else [])
    if not all(name in batch.column_names and _is_text(batch[name].type) for name in wanted):
        return range(len(batch))
    inspect = _blank(batch[prompt_column])
    if answer_column:
        answers = batch[answer_column]
        inspect = pc.or_(inspect, _blank(answers))
        for mark in ("####", "\\boxed", "["):
            inspect = pc.or_(inspect, pc.fill_null(pc.match_substring(answers, mark), True))
    rows: list[int] = np.flatnonzero(inspect.to_numpy(zero_copy_only=False)).tolist()
    return rows


def has_duplicates(table: Any, column: str) -> bool:
    """True if a column of a `datasets.Dataset` may repeat a value when compared as text; nulls don't count."""
    values = table.select_columns([column]).with_format("arrow")[:][column]
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        return True  # other types are compared row by row, as text
    return bool(pc.count_distinct(values, mode="only_valid").as_py() < len(values) - values.null_count)


def _blank(texts: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.fill_null(pc.equal(trimmed, ""), True)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
