"""Atomic writes, which leave files complete or absent even after a kill, and the chunks of resumable jobs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepo_cli.errors import RunError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

PARTIAL = ".partial-"
"""Prefix of files that are being written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path`, or is deleted after an error.

    It keeps the suffix, which some writers choose the format by. For a writer that needs an open file:

        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    """
    temporary = path.with_name(PARTIAL + path.name)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def atomic_write(path: Path, text: str) -> None:
    """Write all of the text or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def atomic_write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, with null for NaN and infinities."""
    atomic_write(path, json.dumps(finite(content), indent=2) + "\n")


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Chunks:
    """The finished chunks of a long job, kept as parquet files in a folder until the job is done.

    The folder also holds the job's fingerprint, a digest of all that its results depend on, so that chunks of another
    job are never taken for this one's.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self._mark = folder / "fingerprint"

    def owner(self) -> str | None:
        """The fingerprint of the job that the folder belongs to; None if there is no folder or nothing in it.

        Raises:
            UsageError: the folder holds files that no such job wrote.
        """
        if self._mark.is_file():
            return self._mark.read_text(encoding="utf-8")
        if self.folder.is_dir() and any(not path.name.startswith(PARTIAL) for path in self.folder.iterdir()):
            raise UsageError(f"{self.folder} holds files that prepo did not write; move them or choose another output")
        return None

    def open(self) -> None:
        """Prepare the folder for this job; chunks of another job are deleted."""
        if self.owner() not in (None, self.fingerprint):
            self.delete()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._mark.is_file():
            atomic_write(self._mark, self.fingerprint)

    def __contains__(self, number: int) -> bool:
        """Whether the chunk is finished."""
        return self._path(number).is_file()

    def write(self, number: int, table: pa.Table) -> None:
        """Save a finished chunk."""
        import pyarrow.parquet as pq

        with atomic_path(self._path(number)) as temporary:
            pq.write_table(table, temporary)

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A finished chunk, or only some of its columns."""
        import pyarrow.parquet as pq

        return pq.read_table(self._path(number), columns=None if columns is None else list(columns))

    def schema(self, number: int) -> pa.Schema:
        """The columns of a finished chunk."""
        import pyarrow.parquet as pq

        return pq.read_schema(self._path(number))

    def delete(self) -> None:
        """Delete the folder with all chunks, the fingerprint last: after a kill it still identifies the job."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir(), key=lambda path: path == self._mark):
                path.unlink()
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.parquet"


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a JSONL file and flush it to disk; raises RunError if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"can't write to {path} ({error.strerror}); fix that, then continue with --resume") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, up to the first incomplete line; none if there is no such file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON cannot represent.

    >>> finite({"kl": float("nan"), "rewards": (1.0, float("inf"))})
    {'kl': None, 'rewards': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
