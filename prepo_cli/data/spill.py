"""Collect parsed rows in Arrow tables: in memory, or in a folder on disk that is then mapped.

Column types are those of the values. Batches may disagree: whole numbers beside fractions become floats if none is
changed by that, a text column that starts with nulls is text, and a column of different kinds, such as text and lists,
holds JSON, which `datasets` decodes again when a row is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

Types = dict[str, pa.DataType]
_MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
"""What Arrow raises where values do not fit a type."""


class Spill:
    """Tables of one file in the order of its rows; `folder` is where they are written, None to keep them in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._types = folder, Types()
        self._sinks: list[Any] = []
        self._writer: Any = None

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, which may have different columns."""
        names = list(dict.fromkeys(chain.from_iterable(rows)))
        self.add({name: _array([row.get(name) for row in rows]) for name in names}, len(rows))

    def add(self, columns: Mapping[str, pa.Array], count: int) -> None:
        """Append columns of that many rows."""
        merged = {
            name: _common(self._types[name], kind) if name in self._types else kind
            for name, kind in _types(columns).items()
        }
        arrays = {name: _cast(array, merged[name]) for name, array in columns.items()}
        merged = self._types | merged | {name: array.type for name, array in arrays.items()}
        if self._writer is None or merged != self._types:
            self._begin(merged)
        batch = [arrays[name] if name in arrays else pa.nulls(count, kind) for name, kind in merged.items()]
        self._writer.write_batch(pa.record_batch(batch, schema=pa.schema(list(merged.items()))))

    def table(self) -> pa.Table:
        """All rows, with the types that every one of them fits."""
        self._end()
        return joined([pa.ipc.open_stream(_opened(sink)).read_all() for sink in self._sinks])

    def _begin(self, types: Types) -> None:
        self._end()
        self._types = types
        sink = pa.BufferOutputStream() if self._folder is None else str(self._folder / f"part-{len(self._sinks)}.arrow")
        self._sinks.append(sink)
        self._writer = pa.ipc.new_stream(sink, pa.schema(list(types.items())))

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables below each other; a column that one of them lacks is null there."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(chain.from_iterable(table.column_names for table in tables))
    return pa.table({name: _joined([_column(table, name) for table in tables]) for name in names})


def is_json(kind: pa.DataType) -> bool:
    """Whether a column holds values of different kinds as JSON."""
    return isinstance(kind, pa.JsonType)


def _opened(sink: Any) -> Any:
    return pa.memory_map(sink) if isinstance(sink, str) else sink.getvalue()


def _types(columns: Mapping[str, pa.Array]) -> Types:
    return {name: array.type for name, array in columns.items()}


def _array(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except _MISFITS:
        return _as_json(values)


def _as_json(values: Sequence[Any]) -> pa.Array:
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type of a column that has values of both."""
    if a == b:
        return a
    schemas = [pa.schema([("column", kind)]) for kind in (a, b)]
    with suppress(*_MISFITS):
        if not (is_json(a) or is_json(b)):
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    return pa.json_()


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array as that type, or as JSON if a value does not fit it."""
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    with suppress(*_MISFITS):
        if not is_json(kind):
            return array.cast(kind)
    return _as_json(array.to_pylist())


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name] if name in table.column_names else pa.chunked_array([pa.nulls(len(table))])


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    kind = columns[0].type
    for column in columns[1:]:
        kind = _common(kind, column.type)
    chunks = [_cast(chunk, kind) for column in columns for chunk in column.chunks]
    if len({chunk.type for chunk in chunks}) > 1:
        chunks = [_cast(chunk, pa.json_()) for chunk in chunks]
    return pa.chunked_array(chunks, chunks[0].type)
