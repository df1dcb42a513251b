"""What prepo made: a marker in every folder that it makes. Nothing else is deleted or replaced.

The marker lists the files that prepo writes there, as patterns relative to the folder. A pattern that ends in a slash
stands for folders in which only the files of their manifest count. Files that people like to edit, such as a model
card, are known by the digests of what was written instead, and are theirs once they differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from prepo_cli import __version__
from prepo_cli.errors import UsageError
from prepo_cli.files import PARTIAL, atomic_write, atomic_write_json
from prepo_cli.manifest import listed

MARKER = ".prepo.json"
LOCK = ".prepo.lock"
Kind = Literal["run", "evaluation", "comparison", "chunks"]


@dataclass(frozen=True)
class Marker:
    """What a folder is and which of its files are prepo's; `written` maps names to SHA-256 digests."""

    kind: Kind
    files: tuple[str, ...] = ()
    written: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fingerprint: str | None = None

    def write(self, folder: Path) -> None:
        """Put the marker into the folder."""
        content: dict[str, Any] = {"kind": self.kind, "prepo": __version__, "files": self.files}
        content |= {"written": self.written} if self.written else {}
        content |= {"fingerprint": self.fingerprint} if self.fingerprint else {}
        atomic_write_json(folder / MARKER, content)

    def owns(self, folder: Path, name: str) -> bool:
        """Whether what has this name in the marker's folder is prepo's."""
        path = folder / name
        if name in self.written:
            return path.is_file() and _digest(path.read_bytes()) in self.written[name]
        return any(fnmatchcase(f"{name}/" if path.is_dir() else name, pattern) for pattern in self.files)


def read_marker(folder: Path) -> Marker | None:
    """The folder's marker; None without one.

    Raises:
        UsageError: it is damaged, or lists files outside the folder.
    """
    path = folder / MARKER
    try:
        content = json.loads(path.read_bytes())
        files, written = tuple(content["files"]), dict(content.get("written", {}))
        if not all(map(_is_inside, (*files, *written))):
            raise ValueError
        return Marker(content["kind"], files, written, content.get("fingerprint"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"can't read {path} ({error.strerror}); choose another folder") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(
            f"{path} is damaged, so prepo can't tell which files here it wrote; choose another folder"
        ) from None


def is_unused(folder: Path) -> bool:
    """Whether the folder is missing or holds nothing but what a kill leaves right after the start."""
    names = os.listdir(folder) if folder.exists() else []
    return all(name.startswith(PARTIAL) or name in (MARKER, LOCK) for name in names)


def refuse_foreign(folder: Path, names: Iterable[str], cure: str) -> None:
    """Refuse to proceed if a file that prepo did not write has a name that prepo needs.

    Raises:
        UsageError: there is such a file; the message names it and says how to fix it.
    """
    marker = read_marker(folder)
    for name in names:
        if os.path.lexists(folder / name) and not (marker and marker.owns(folder, name)):
            changed = marker is not None and name in marker.written
            what = "was changed since prepo wrote it" if changed else "was not written by prepo, or by an older version"
            raise UsageError(f"{folder / name} {what}; move it, or {cure}")


def write_unless_edited(folder: Path, name: str, text: str) -> bool:
    """Write a file that people edit; if they have, it stays as it is, and the answer is False.

    The marker gets the digest first, so that after a kill the file is known either way.
    """
    marker = read_marker(folder)
    if marker is None or (os.path.lexists(folder / name) and not marker.owns(folder, name)):
        return False
    digests = dict.fromkeys([*marker.written.get(name, ()), _digest(text.encode())])
    replace(marker, written={**marker.written, name: list(digests)}).write(folder)
    atomic_write(folder / name, text)
    return True


def numbered(name: str) -> tuple[str, ...]:
    """Patterns of a name that has a number of six to nine digits, and not more of them, where this has a #.

    >>> numbered("step-#/")[0]
    'step-[0-9][0-9][0-9][0-9][0-9][0-9]/'
    """
    return tuple(name.replace("#", "[0-9]" * digits) for digits in range(6, 10))


def find_numbered(folder: Path, name: str) -> list[Path]:
    """What a folder holds by such a name, in the order of the numbers."""
    return [path for pattern in numbered(name) for path in sorted(folder.glob(pattern))]


def remove_owned(folder: Path) -> None:
    """Delete what the marker of a folder lists, and folders in it that are then empty; the marker and all else stay.

    What a kill left of these files under their temporary names goes too.
    """
    marker = read_marker(folder)
    assert marker is not None
    for pattern in (*marker.files, *marker.written):
        place = PurePosixPath(pattern)
        for path in folder.glob(str(place.with_name(f"{PARTIAL}{place.name}"))):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in sorted(folder.glob(pattern.rstrip("/"))):
            if pattern.endswith("/"):
                remove_listed(path)
            elif _is_file(path) and marker.owns(folder, path.relative_to(folder).as_posix()):
                path.unlink()
            for parent in takewhile(folder.__ne__, path.parents):
                remove_if_empty(parent)


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder, which is nobody's to delete, to damaged-<name>; returns the new path."""
    return folder.rename(unused(folder.with_name(f"damaged-{folder.name}")))


def unused(path: Path) -> Path:
    """The path itself, or with the first number with which nothing has that name."""
    names = (f"{path.name}-{number}" if number else path.name for number in count())
    return next(free for free in map(path.with_name, names) if not os.path.lexists(free))


def remove_listed(folder: Path) -> None:
    """Delete the files that the folder's manifest lists, the manifest last, and what is empty without them.

    A link is not followed: what it leads to is somebody else's.
    """
    if folder.is_symlink():
        return
    for name in filter(_is_inside, listed(folder)):
        path = folder / name
        path.unlink(missing_ok=True)
        for parent in takewhile(folder.__ne__, path.parents):
            remove_if_empty(parent)
    remove_if_empty(folder)


def refuse_non_folder(path: Path) -> None:
    """Refuse a path at which no folder can be.

    Raises:
        UsageError: a file or a link to nothing is in the way.
    """
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if not place.is_dir():
                what = "is a file" if place.exists() else "is a broken link"
                where = what if place == path else f"can't be created, because {place} {what}"
                raise UsageError(f"--output-dir {path} {where}; choose another folder")
            return


def remove_if_empty(folder: Path) -> None:
    """Delete a folder that has nothing in it, unless it is a link or not there."""
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def _is_inside(name: Any) -> bool:
    """Whether a name or pattern stays within its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not PurePosixPath(name).is_absolute()


def _is_file(path: Path) -> bool:
    """Whether it is anything but a folder; a link to one is a file of the folder that it lies in."""
    return path.is_symlink() or not path.is_dir()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
