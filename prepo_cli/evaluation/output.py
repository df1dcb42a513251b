"""Where a scored dataset may be written: never over its input or over a file that prepo did not write.

A file that prepo wrote is known by the column in which every row says how it was scored, wherever it was moved since.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.chunks import Chunks
from prepo_cli.errors import UsageError
from prepo_cli.lock import locked
from prepo_cli.ownership import LOCK, read_marker

PPL_CONTEXT, PASS_CONTEXT = "ppl_context", "pass_context"
"""The columns that say how a row was scored."""
ENDINGS = (".jsonl", ".parquet", ".csv")
LONGEST_ROW = 2**24
"""Characters of a JSONL file's first row that are read."""


@contextmanager
def claimed(output: Path, dataset: str, column: str, *, overwrite: bool, break_lock: bool = False) -> Iterator[None]:
    """Keep other processes from writing the output, which may be written.

    Args:
        dataset: what is scored, as the user gave it.
        column: the column in which files that this command wrote say how they were scored.
        overwrite: replace such a file.

    Raises:
        UsageError: it may not be written, or another process writes it.
    """
    refuse_output(output, dataset, column, overwrite=overwrite)
    with locked(output.with_name(f".{output.name}{LOCK}"), output, break_lock):
        refuse_output(output, dataset, column, overwrite=overwrite)  # another scoring may just have ended
        yield


def chunks_folder(output: Path) -> Path:
    """Where the finished chunks of an output are kept."""
    return output.with_name(f"{output.name}.partial")


def refuse_output(output: Path, dataset: str, column: str, *, overwrite: bool) -> None:
    """Refuse, before anything is loaded, an output that can't or may not be written; see `claimed`.

    Raises:
        UsageError: why, and the cure.
    """
    other = "choose another --output"
    if output.suffix not in ENDINGS:
        raise UsageError(f"--output {output}: the file name must end in one of {', '.join(ENDINGS)}")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; choose a file name")
    if output.is_symlink() and not output.exists():
        raise UsageError(f"--output {output} is a broken link; delete it, or {other}")
    for source in _files(Path(dataset)):
        if output.exists() and source.samefile(output):
            name = "" if output == source else f" {source} under another name"
            raise UsageError(f"--output {output} is the input{name}; {other}")
        if chunks_folder(output).resolve() in source.resolve().parents:
            raise UsageError(f"--output {output}: its chunks would overwrite the input {source}; {other}")
    if output.exists():
        if not _was_scored(output, column):
            raise UsageError(
                f"--output {output} already exists and was not written by this command; move it, or {other}"
            )
        if not overwrite:
            raise UsageError(f"--output {output} already exists: replace it with --overwrite, or {other}")
    place = read_marker(output.parent)
    if place is not None and place.kind == "chunks":
        raise UsageError(f"--output {output}: {output.parent} contains a job's chunks; {other}")
    Chunks(chunks_folder(output), "").owner()  # refuses a folder that is not ours
    try:
        TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise UsageError(f"can't write to {output} ({error.strerror}); {other}") from error


def _files(dataset: Path) -> Iterator[Path]:
    """The files that a local dataset is read from."""
    if dataset.is_file():
        yield dataset
    elif dataset.is_dir():
        yield from (Path(folder, name) for folder, _, names in os.walk(dataset) for name in names)


def _was_scored(path: Path, column: str) -> bool:
    """Whether the file's first row has the column."""
    try:
        if path.suffix == ".parquet":
            return column in pq.read_schema(path).names
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return column in next(csv.reader(file), [])
            row = json.loads(file.readline(LONGEST_ROW))
            return isinstance(row, dict) and column in row
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException):
        return False
