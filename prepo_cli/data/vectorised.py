"""Looks at whole columns at once, so that checking ten million rows takes seconds where their cells are plain texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def suspicious(batch: pa.Table, prompt_column: str, answer_column: str | None) -> Sequence[int]:
    """Rows of an Arrow table that may be bad: all, unless both columns are texts.

    A prompt that is not blank is good as it is. An answer is, too, unless it may be a list, or a worked text that
    holds the answer: these are to be taken apart.
    """
    wanted = [prompt_column] + ([answer_column] if answer_column else [])
    if not all(name in batch.column_names and _is_text(batch[name].type) for name in wanted):
        return range(len(batch))
    look = _blank(batch[prompt_column])
    if answer_column:
        answers = batch[answer_column]
        look = pc.or_(look, _blank(answers))
        for mark in ("####", "\\boxed", "["):
            look = pc.or_(look, pc.fill_null(pc.match_substring(answers, mark), True))
    rows: list[int] = np.flatnonzero(look.to_numpy(zero_copy_only=False)).tolist()
    return rows


def has_duplicates(table: Any, column: str) -> bool:
    """Whether a value of a `datasets.Dataset`'s column comes twice, as text; nulls don't count."""
    values = table.select_columns([column]).with_format("arrow")[:][column]
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        return True  # so that they are compared one by one, as texts
    return int(pc.count_distinct(values, mode="only_valid").as_py()) < len(values) - values.null_count


def _blank(texts: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.fill_null(pc.equal(trimmed, ""), True)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
