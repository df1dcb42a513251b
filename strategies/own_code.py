"""Import what the user wrote: `package.module:name`, or `path/to/file.py:name`.

Modules are searched for on Python's path first, then in the folders given to `search`, then in the current folder:
these come last, so that no file of the user's shadows an installed package. Files are searched for in the same folders,
and may import the modules next to them.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from strategies import places

_searched: list[Path] = []


class OwnCodeError(Exception):
    """No such file, module or name; the message says where prepo looked."""


def search(folder: Path) -> None:
    """Look for the user's modules and files in this folder too, before the current one."""
    if folder.is_dir() and folder.resolve() not in _searched:
        _searched.append(folder.resolve())
        _append(folder.resolve())


def load(path: str) -> Any:
    """The object at `package.module:name` or `path/to/file.py:name`.

    Raises:
        OwnCodeError: there is none. Whatever the user's module raises passes through.
    """
    source, _, name = path.partition(":")
    for folder in _folders():
        _append(folder)
    module = _from_file(_file(source)) if source.endswith(".py") else _from_path(source)
    try:
        return getattr(module, name)
    except AttributeError:
        where = getattr(module, "__file__", None) or "a namespace package"
        same = next((file for folder in _folders() if (file := folder / f"{source}.py").is_file()), None)
        hidden = same is not None and str(same) != where
        hint = f"; for the file of that name, write {source}.py:{name}" if hidden else ""
        raise OwnCodeError(f"{source} ({where}) has no '{name}'{hint}") from None


def located(path: str) -> str:
    """The same path, for a process with the same `sys.path`: with the file's folders from the root.

    Raises:
        OwnCodeError: there is no such file.
    """
    source, _, name = path.partition(":")
    return f"{_file(source)}:{name}" if source.endswith(".py") else path


def import_fault(error: BaseException) -> str:
    """What went wrong in `load`, and in which line of the user's code."""
    if isinstance(error, OwnCodeError):
        return f"can't be imported: {error}"
    place = places.of_error(error)
    kind, message = type(error).__name__, " ".join(str(error).split())[:300]
    return f"fails to import{place and f' at {place}'}: {kind}{message and f': {message}'}"


def _folders() -> Iterator[Path]:
    yield from _searched
    yield Path.cwd()


def _append(folder: Path) -> None:
    if str(folder) not in sys.path and not ("" in sys.path and folder == Path.cwd()):
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def _file(source: str) -> Path:
    given = Path(source).expanduser()
    for folder in _folders():
        if (folder / given).is_file():
            return (folder / given).resolve()
    if given.is_absolute():
        raise OwnCodeError(f"no such file: {given}; correct its path")
    raise OwnCodeError(f"{given} was not found in {_looked()}; run prepo from the folder that its path is relative to")


def _from_path(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise  # one that the user's module imports
        raise OwnCodeError(
            f"module '{error.name}' was not found in {_looked()} or on PYTHONPATH; run prepo from "
            "its folder, or pass its file: path/to/file.py:name"
        ) from None


def _from_file(file: Path) -> ModuleType:
    """The module of a file, under the file's name or, if another module has that name, under a unique one."""
    _append(file.parent)
    if file.stem.isidentifier():
        spec = sys.modules[file.stem].__spec__ if file.stem in sys.modules else find_spec(file.stem)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file:
            return importlib.import_module(file.stem)
    name = f"{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # as of every file that ends in .py
        sys.modules[name] = module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _looked() -> str:
    return " or ".join(dict.fromkeys(map(str, _folders())))
