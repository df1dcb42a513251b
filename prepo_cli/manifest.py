"""A folder's manifest: size and SHA-256 of every file, by which damage is found before anything is loaded.

`prepo-manifest.json` is written last. It has a digest of its own content and one valid spelling, so that none of its
own bytes can change unnoticed either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Literal

from pydantic import BaseModel, ValidationError

from prepo_cli.files import PARTIAL, atomic_write
from prepo_cli.machine import cores
from prepo_cli.terminal import progress

NAME = "prepo-manifest.json"
FORMAT = 1
BLOCK_BYTES = 4 * 2**20
QUIET_SECONDS = 2.0
"""How long hashing may take before its progress is shown."""
POLL_SECONDS = 0.5


class Damaged(Exception):
    """A folder is not what its manifest says: `problem` says what is wrong with `file`, its path in the folder."""

    def __init__(self, folder: Path, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.folder, self.file, self.problem = folder, file, problem


class Entry(BaseModel):
    """A file's size in bytes and the hex digest of its content."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """The files by their paths in the folder."""

    format: Literal[1]
    files: dict[str, Entry]


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files that are below the folder now."""
    names = sorted(_names(folder))
    digests = _digests(folder, names)
    files = {n: Entry(size=(folder / n).stat().st_size, sha256=d) for n, d in zip(names, digests, strict=True)}
    atomic_write(folder / NAME, _spelled(files))


def verify(folder: Path, part: Path | None = None) -> None:
    """Compare all files with the folder's manifest, sizes first.

    Args:
        part: check only what is listed below this folder, which is `folder` or lies in it; other files may lie beside.

    Raises:
        Damaged: a file is missing, of another size or content, or not listed, or the manifest itself is damaged.
    """
    entries = _read(folder)
    if part is None:
        unlisted = _names(folder) - entries.keys()
        if unlisted:
            raise Damaged(folder, min(unlisted), "not in the manifest")
    else:
        entries = {name: entry for name, entry in entries.items() if (folder / name).is_relative_to(part)}
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(folder, name, "missing")
        if (size := path.stat().st_size) != entry.size:
            raise Damaged(folder, name, f"{size:,} bytes instead of {entry.size:,}")
    for (name, entry), digest in zip(entries.items(), _digests(folder, list(entries)), strict=True):
        if digest != entry.sha256:
            raise Damaged(folder, name, "content differs")


def intact(folder: Path, of: Path | None = None) -> set[str]:
    """The files that are what the manifest says, and the manifest itself; none without an undamaged one.

    Args:
        of: the folder whose manifest it is, if another one.
    """
    try:
        entries = _read(of or folder)
    except Damaged:
        return set()
    paths = {name: folder / name for name in entries}
    names = [name for name, path in paths.items() if path.is_file() and path.stat().st_size == entries[name].size]
    digests = _digests(folder, names)
    return {name for name, digest in zip(names, digests, strict=True) if digest == entries[name].sha256} | {NAME}


def has_manifest(folder: Path) -> bool:
    """Whether the folder has a manifest, damaged or not."""
    return (folder / NAME).exists()


def listed(folder: Path) -> list[str]:
    """The paths that the manifest lists, in the end its own; none if there is no undamaged manifest."""
    try:
        return [*_read(folder), NAME]
    except Damaged:
        return []


def _read(folder: Path) -> dict[str, Entry]:
    try:
        text = (folder / NAME).read_bytes()
        files = Manifest.model_validate_json(text).files
    except FileNotFoundError:
        raise Damaged(folder, NAME, "missing") from None
    except (OSError, ValidationError):
        raise Damaged(folder, NAME, "damaged") from None
    if _spelled(files).encode() != text:
        raise Damaged(folder, NAME, "damaged")
    return files


def _spelled(files: Mapping[str, Entry]) -> str:
    """The only text that says this."""
    content = {"files": {name: entry.model_dump() for name, entry in sorted(files.items())}, "format": FORMAT}
    digest = sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}, indent=1) + "\n"


def _names(folder: Path) -> set[str]:
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return paths - {NAME}


def _digests(folder: Path, names: Sequence[str]) -> list[str]:
    """SHA-256 of each file, several at a time; files are read in blocks, however large they are.

    Raises:
        Damaged: a file can't be read.
    """
    done, stopped = [0] * len(names), Event()

    def digest(number: int) -> str:
        hashed, block = sha256(), memoryview(bytearray(BLOCK_BYTES))
        try:
            with (folder / names[number]).open("rb", buffering=0) as file:
                while (size := file.readinto(block)) and not stopped.is_set():
                    hashed.update(block[:size])
                    done[number] += size
        except OSError as error:
            raise Damaged(folder, names[number], f"can't be read ({error.strerror})") from error
        return hashed.hexdigest()

    with ThreadPoolExecutor(cores()) as pool:
        try:
            futures = [pool.submit(digest, number) for number in range(len(names))]
            if wait(futures, QUIET_SECONDS).not_done:
                total = sum((folder / name).stat().st_size for name in names)
                label = f"verify {folder.name.removeprefix(PARTIAL)}"
                with progress(label, _megabytes(total), "MB") as advance:
                    shown, working = 0, True
                    while working:
                        working = bool(wait(futures, POLL_SECONDS).not_done)
                        advance(_megabytes(sum(done)) - shown)
                        shown = _megabytes(sum(done))
            return [future.result() for future in futures]
        finally:
            stopped.set()


def _megabytes(size: int) -> int:
    return round(size / 1e6)
