"""Read one local file into an Arrow table, with the number that each row has in the file.

The path is opened as it is written: it is no pattern, no address and no chain of file systems. The tables of large
files are kept in the cache folder of `datasets` and memory-mapped, so that the next start finds them.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.data.rows import BadRow, Row, Unreadable, csv_rows, json_items, json_lines
from prepo_cli.data.spill import Spill
from prepo_cli.data.vectorised import broken_cells
from prepo_cli.errors import UsageError, one_line
from prepo_cli.startup import collection_paused
from prepo_cli.terminal import progress

FORMATS = (".jsonl", ".json", ".parquet", ".csv")
MEGABYTE = 2**20
LARGE = 64 * MEGABYTE
"""Files of this many bytes are kept as Arrow files on disk."""
BATCH_ROWS, BATCH_BYTES = 2000, 64 * MEGABYTE
MAX_COLUMNS = 1000
NESTED = frozenset((dict, list))
READER_VERSION = 1
"""Part of the cached tables' names: increase it when rows are read in another way."""
END = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of every Arrow stream; one cut off between two batches would pass for whole."""
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Reading:
    """The rows of a file.

    `numbers` are their numbers in the file where these are not 1, 2, 3 and so on; `unit` is what they count. `bad` is
    the number of rows that were skipped.
    """

    name: str
    table: pa.Table
    unit: str
    numbers: npt.NDArray[np.int64] | None = None
    bad: int = 0

    def place(self, index: int) -> str:
        """What messages call the row."""
        return f"{self.name}, {self.unit} {index + 1 if self.numbers is None else self.numbers[index]}"


def read_file(path: Path, skip_bad_rows: bool, text: Collection[str]) -> Reading:
    """The rows of a JSONL, JSON, CSV or parquet file.

    Args:
        path: opened literally.
        skip_bad_rows: count rows that can't be used instead of refusing them.
        text: columns whose numbers are kept as text, nested ones as `column.field`.

    Raises:
        UsageError: the file is missing, empty or unreadable, or has a bad row.
    """
    _refuse_unreadable(path)
    unit = "line" if path.suffix == ".jsonl" else "row"
    cached = _cache(path, text) if path.stat().st_size >= LARGE else None
    try:
        if cached is None:
            return _read(path, unit, skip_bad_rows, frozenset(text), None, lambda megabytes: None)
        kept = _kept(cached)
        if kept is not None:
            return Reading(str(path), kept, unit)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(dir=cached.parent, prefix="reading-") as folder,
            progress(f"read {path}", path.stat().st_size // MEGABYTE, "MB") as advance,
        ):
            reading = _read(path, unit, skip_bad_rows, frozenset(text), Path(folder), advance)
            if reading.numbers is None:
                _keep(reading.table, Path(folder), cached)
        return reading
    except OSError as error:
        where = f"; it is cached in {cached.parent}: set HF_DATASETS_CACHE to use another folder" if cached else ""
        raise UsageError(f"{path} can't be read: {one_line(error)}{where}") from error


def _refuse_unreadable(path: Path) -> None:
    try:
        state = path.stat()
        kind = stat.S_ISREG(state.st_mode)
        if kind and state.st_size:
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {one_line(error)}") from error
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: unsupported file format '{path.suffix}'; use one of {', '.join(FORMATS)}")
    if not kind:
        raise UsageError(f"{path} is not a regular file; save the data in one of {', '.join(FORMATS)} first")
    if not state.st_size:
        raise UsageError(f"{path} is empty")


def _read(
    path: Path, unit: str, skip_bad_rows: bool, text: frozenset[str], folder: Path | None, advance: Advance
) -> Reading:
    faults = _Faults(str(path), unit, skip_bad_rows)
    spill, numbers = Spill(folder), list[npt.NDArray[np.int64]]()
    try:
        # Parsing makes many objects and no cycles: looking for them takes a third of the time.
        with path.open("rb") as file, collection_paused():
            if path.suffix == ".parquet":
                _add_parquet(file, spill, numbers, faults)
            else:
                for batch in _batches(_rows_of(path, file)(file, text), faults, advance):
                    numbers.append(np.array([number for number, _ in batch]))
                    spill.add_rows([cells for _, cells in batch])
        if not numbers:
            raise UsageError(f"{path} has no usable row; {faults.first}" if faults.first else f"{path} is empty")
        table = spill.table()
    except (Unreadable, BadRow, pa.ArrowException) as error:
        cure = "save its rows as JSONL, where bad ones can be skipped" if path.suffix == ".json" else "save it again"
        raise UsageError(f"{path} can't be read: {one_line(error)}; fix it, or {cure}") from error
    all_numbers = np.concatenate(numbers)
    in_order = np.array_equal(all_numbers, np.arange(1, len(all_numbers) + 1))
    return Reading(str(path), table, unit, None if in_order and not faults.count else all_numbers, faults.count)


class _Faults:
    """Refuses the first bad row, or counts all."""

    def __init__(self, name: str, unit: str, skip: bool) -> None:
        self.name, self.unit, self.skip = name, unit, skip
        self.count, self.first = 0, ""

    def add(self, number: int, fault: BadRow | str) -> None:
        where = f"{self.unit} {number}: {fault}"
        if not self.skip:
            raise UsageError(f"{self.name}, {where}; fix it, or skip bad rows with --skip-bad-rows")
        self.count, self.first = self.count + 1, self.first or where


def _rows_of(path: Path, file: BinaryIO) -> Callable[[BinaryIO, frozenset[str]], Iterator[Row]]:
    if path.suffix == ".csv":
        return csv_rows
    if path.suffix == ".json":
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start.startswith(b"["):
            return json_items
    return json_lines


def _batches(rows: Iterator[Row], faults: _Faults, advance: Advance) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Good rows with their numbers, in lists of bounded size; `advance` is told how many megabytes were read."""
    batch: list[tuple[int, dict[str, Any]]] = []
    taken, before, names = 0, 0, set[str]()
    for number, size, cells in rows:
        if isinstance(cells, BadRow):
            faults.add(number, cells)
            continue
        for name, cell in cells.items():
            if name not in names or type(cell) in NESTED:
                _note(name, cell, names)
        if len(names) > MAX_COLUMNS:
            raise Unreadable(f"more than {MAX_COLUMNS:,} different columns or keys, at {faults.unit} {number}")
        batch.append((number, cells))
        taken += size
        if len(batch) == BATCH_ROWS or taken >= BATCH_BYTES:
            yield batch
            advance((before + taken) // MEGABYTE - before // MEGABYTE)
            batch, before, taken = [], before + taken, 0
    if batch:
        yield batch


def _note(name: str, cell: Any, names: set[str]) -> None:
    """Add a column, and the keys of the objects in it: each of them takes room in every row."""
    names.add(name)
    if isinstance(cell, dict):
        for key, value in cell.items():
            _note(f"{name}.{key}", value, names)
    elif isinstance(cell, list):
        for value in cell:
            if isinstance(value, dict | list):
                _note(name, value, names)


def _add_parquet(file: BinaryIO, spill: Spill, numbers: list[npt.NDArray[np.int64]], faults: _Faults) -> None:
    with pq.ParquetFile(file) as parquet:
        first = 1
        for batch in parquet.iter_batches(BATCH_ROWS):
            good = np.ones(len(batch), dtype=bool)
            for row, fault in broken_cells(batch):
                faults.add(first + row, fault)
                good[row] = False
            kept = batch.filter(pa.array(good)) if not good.all() else batch
            if len(kept):
                numbers.append(first + np.flatnonzero(good))
                spill.add(dict(zip(kept.schema.names, kept.columns, strict=True)), len(kept))
            first += len(batch)


def _cache(path: Path, text: Collection[str]) -> Path:
    """Where the table of a file is kept, until the file is changed."""
    import datasets

    state = path.stat()
    mark = (str(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns, sorted(text), READER_VERSION)
    digest = hashlib.blake2b(repr(mark).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "prepo" / f"{digest}.arrow"


def _kept(cached: Path) -> pa.Table | None:
    """The table kept earlier, memory-mapped; None if there is none, or only a damaged one."""
    if not cached.is_file():
        return None
    try:
        mapped = pa.memory_map(str(cached))
        whole = mapped.size() > len(END) and mapped.read_at(len(END), mapped.size() - len(END)) == END
        return pa.ipc.open_stream(mapped).read_all() if whole else None
    except (pa.ArrowInvalid, OSError):
        return None


def _keep(table: pa.Table, folder: Path, cached: Path) -> None:
    parts = list(folder.iterdir())
    if len(parts) > 1:  # batches of different types, which the table has joined
        parts = [folder / "whole.arrow"]
        with pa.ipc.new_stream(str(parts[0]), table.schema) as writer:
            writer.write_table(table)
    parts[0].replace(cached)
