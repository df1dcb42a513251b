"""Writing a folder of large files: it appears with all its files and a manifest, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from rich.filesize import decimal

from prepo_cli import manifest
from prepo_cli.errors import FULL, FULL_BYTES, NO_ROOM, RunError, one_line
from prepo_cli.files import PARTIAL, flush
from prepo_cli.ownership import unused
from prepo_cli.terminal import say

FOREIGN_ERRORS = ("PytorchStreamWriter", "inline_container", "iostream error", "(os error ")
"""What torch, and what safetensors and tokenizers, say when they can't write: no type of error tells it."""


@contextmanager
def whole_folder(final: Path, needed: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes `final`, flushed to disk and with a manifest, or is deleted after an error.

    In a `final` that exists, files of the same names are replaced one by one, the manifest last, and others stay: a
    kill in between leaves the folder at odds with its manifest. Those that somebody changed are renamed.

    Args:
        needed: bytes that must be free; nothing is written otherwise.

    Raises:
        RunError: the disk is full or not writable.
    """
    partial, replacing = final.with_name(PARTIAL + final.name), False
    try:
        # What an export has left that ended while it replaced files: its manifest tells which ones it had replaced.
        ours = manifest.intact(final) | manifest.intact(final, partial)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise _failure(final, FULL, needed, free)
        yield partial
        manifest.write_manifest(partial)
        for path in (*partial.rglob("*"), partial):
            flush(path)
        if final.exists():
            replacing = True
            _replace_files(partial, final, ours)
        else:
            partial.rename(final)
        flush(final.parent)
    except BaseException as error:
        free = shutil.disk_usage(final.parent).free
        if not replacing:
            shutil.rmtree(partial, ignore_errors=True)
        reason = _reason(error.__cause__ or error, free)
        if reason is None:
            raise
        raise _failure(final, reason, needed, free) from error


def _replace_files(source: Path, target: Path, ours: Set[str]) -> None:
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: file == Path(manifest.NAME)):
        path = target / file
        if file.as_posix() not in ours and os.path.lexists(path):
            kept = path.rename(unused(path.with_name(f"{path.name}.changed")))
            say(f"{path} was changed since prepo wrote it, so it is kept as {kept.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        (source / file).replace(path)
        flush(path.parent)
    shutil.rmtree(source)


def _reason(error: BaseException, free: int) -> str | None:
    """Why the disk took no more; None if the error is about something else."""
    if isinstance(error, OSError):
        if error.errno == ENOSPC and free >= FULL_BYTES:
            return f"{FULL}, possibly out of inodes"
        return FULL if error.errno in NO_ROOM and free < FULL_BYTES else error.strerror or one_line(error)
    if any(mark in str(error) for mark in FOREIGN_ERRORS):
        return FULL if free < FULL_BYTES else one_line(error)
    return None


def _failure(final: Path, reason: str, needed: int, free: int) -> RunError:
    room = f", {decimal(needed)} needed" if needed else ""
    cure = "free some space" if reason.startswith(FULL) else "fix that"
    return RunError(
        f"can't write {final} ({reason}: {decimal(free)} free{room}); earlier checkpoints are intact: {cure}, then "
        "continue with --resume"
    )
