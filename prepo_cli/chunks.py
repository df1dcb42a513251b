"""The finished chunks of a long job, which survive its end by a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prepo_cli.errors import RunError, UsageError
from prepo_cli.files import atomic_path
from prepo_cli.ownership import (
    MARKER,
    Marker,
    find_numbered,
    is_unused,
    numbered,
    read_marker,
    remove_if_empty,
    remove_owned,
)

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = "chunk-#.parquet"


class Chunks:
    """The finished chunks of a job, kept as parquet files in a folder until the job is done.

    The folder's marker holds the job's fingerprint, a digest of all that its results depend on, so that chunks of
    another job are never taken for this one's.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def owner(self) -> str | None:
        """The fingerprint of the job that the folder belongs to; None if there is no folder or nothing in it.

        Raises:
            UsageError: the folder holds files that no such job wrote.
        """
        is_folder = self.folder.is_dir()
        marker = read_marker(self.folder)
        if is_folder and marker is not None and marker.kind == "chunks":
            return marker.fingerprint
        if os.path.lexists(self.folder) and not (is_folder and marker is None and is_unused(self.folder)):
            raise UsageError(
                f"{self.folder} contains files that prepo did not write; move them or choose another output"
            )
        return None

    def open(self) -> None:
        """Prepare the folder for this job; chunks of another job are deleted."""
        if self.owner() not in (None, self.fingerprint):
            self.delete()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.owner() != self.fingerprint:
            try:
                Marker("chunks", numbered(CHUNK), fingerprint=self.fingerprint).write(self.folder)
            except RunError:
                remove_if_empty(self.folder)
                raise

    def __contains__(self, number: int) -> bool:
        """Whether the chunk is finished."""
        return self._path(number).is_file()

    def write(self, number: int, table: pa.Table) -> None:
        """Save a finished chunk; raises RunError if the disk is full, and deletes a folder that got none."""
        import pyarrow.parquet as pq

        try:
            with atomic_path(self._path(number)) as temporary:
                pq.write_table(table, temporary)
        except RunError:
            if not find_numbered(self.folder, CHUNK):
                self.delete()
            raise

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A finished chunk, or only some of its columns."""
        import pyarrow.parquet as pq

        return pq.read_table(self._path(number), columns=None if columns is None else list(columns))

    def schema(self, number: int) -> pa.Schema:
        """The columns of a finished chunk."""
        import pyarrow.parquet as pq

        return pq.read_schema(self._path(number))

    def delete(self) -> None:
        """Delete the chunks, and the folder with its marker unless somebody put other files there.

        The marker goes last: after a kill it still identifies the job.
        """
        if self.owner() is None:
            return
        remove_owned(self.folder)
        if os.listdir(self.folder) == [MARKER]:
            (self.folder / MARKER).unlink()
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.parquet"
