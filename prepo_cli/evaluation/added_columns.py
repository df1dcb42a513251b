"""Compute columns for a dataset chunk by chunk, and write them beside the dataset's own.

While a job runs, `OUTPUT.partial/` keeps the finished chunks, and the same command resumes from them. One chunk is
computed while the next is prepared and the last is written, each in a thread of its own. The dataset and the new
columns are streamed into the output file, so memory does not grow with the number of rows. output.py says where they
may be written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from prepo_cli.background import ahead, behind
from prepo_cli.chunks import Chunks
from prepo_cli.data.loading import PromptDataset
from prepo_cli.engines.base import Progress
from prepo_cli.evaluation.output import chunks_folder
from prepo_cli.files import atomic_path, finite
from prepo_cli.terminal import progress, say

ROWS_PER_WRITE = 2048
T = TypeVar("T")


class AddedColumns:
    """New columns of a dataset; finished chunks survive a kill.

    Args:
        dataset: the rows that get the columns.
        output: the file to write, claimed by `output.claimed`.
        fingerprint: a digest of all that the columns depend on; chunks of another one are discarded.
        chunks: all rows in order, in ranges that are computed together.
    """

    def __init__(self, dataset: PromptDataset, output: Path, fingerprint: str, chunks: Sequence[range]) -> None:
        self.dataset, self.output, self.chunks = dataset, output, chunks
        self._finished = Chunks(chunks_folder(output), fingerprint)
        if self._finished.owner() not in (None, fingerprint):
            say(f"{self._finished.folder} was written with different settings, model or data: starting over")
        self._finished.open()

    def compute(
        self,
        prepare: Callable[[range], T],
        columns: Callable[[range, T, Progress], pa.Table],
        unit: str = "prompts",
        units_per_row: int = 1,
    ) -> tuple[int, float]:
        """Compute the missing chunks; returns the number of rows computed and the seconds that took.

        Args:
            prepare: what can be done for a range of rows while an earlier one is computed; called in another thread.
            columns: returns the new columns of a range of rows that is prepared, and reports its progress in `unit`s.
        """
        missing = [number for number in range(len(self.chunks)) if number not in self._finished]
        rows, total = sum(len(self.chunks[number]) for number in missing), len(self.dataset)
        if rows < total:
            say(f"resuming: {total - rows:,} of {total:,} prompts are already scored")
        started = perf_counter()
        try:
            with (
                progress("score", rows * units_per_row, unit) as advance,
                behind(self._finished.write) as write,
                closing(ahead(prepare(self.chunks[number]) for number in missing)) as prepared,
            ):
                for number, ready in zip(missing, prepared, strict=True):
                    write(number, columns(self.chunks[number], ready, advance))
        except KeyboardInterrupt:
            say(f"finished chunks are kept in {self._finished.folder}; run the same command to resume")
            raise
        return rows, perf_counter() - started

    def parts(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The new columns, or only some of them, chunk by chunk."""
        return (self._finished.read(number, names) for number in range(len(self.chunks)))

    def whole(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The dataset's rows and their new columns, some chunks at a time."""
        at_once = max(1, ROWS_PER_WRITE // len(self.chunks[0]))
        for first in range(0, len(self.chunks), at_once):
            chunks = self.chunks[first : first + at_once]
            new = pa.concat_tables([self._finished.read(first + i) for i in range(len(chunks))])
            yield self.dataset.part(range(chunks[0].start, chunks[-1].stop)), new

    def write(self) -> None:
        """Stream rows and new columns into the output file, then delete the chunks."""
        joined = (_joined(old, new) for old, new in self.whole())
        with atomic_path(self.output) as temporary, temporary.open("wb") as file:
            WRITERS[self.output.suffix](joined, file)
        self._finished.delete()


def _joined(old: pa.Table, new: pa.Table) -> Dataset:
    """Both tables side by side; new columns replace old ones of the same name."""
    table = old.drop_columns([name for name in old.column_names if name in new.column_names])
    for name in new.column_names:
        table = table.append_column(name, new[name])
    return Dataset(table, fingerprint="rows")  # without a given fingerprint it would hash all rows


def _write_jsonl(parts: Iterable[Dataset], file: BinaryIO) -> None:
    # `Dataset.to_json` keeps only ten digits of a number.
    for part in parts:
        for row in part:
            line = json.dumps(finite(row), ensure_ascii=False, separators=(",", ":"), default=str)
            file.write(f"{line}\n".encode())


def _write_parquet(parts: Iterable[Dataset], file: BinaryIO) -> None:
    parts = iter(parts)
    first = next(parts)
    schema = first.features.arrow_schema
    with pq.ParquetWriter(file, schema) as writer:
        for part in chain([first], parts):
            writer.write_table(part.data.table.cast(schema))


def _write_csv(parts: Iterable[Dataset], file: BinaryIO) -> None:
    for number, part in enumerate(parts):
        part.to_csv(file, header=number == 0)


WRITERS: dict[str, Callable[[Iterable[Dataset], BinaryIO], Any]] = {
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
"""How to write each format, by the file's ending."""
