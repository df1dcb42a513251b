"""Importing large libraries without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Pause the garbage collector while torch and transformers are imported, then exempt what they created from it.

    Their imports allocate a million objects and free hardly any, yet the collector walks through them again and again,
    which takes a fifth of the time. Only the first block in a process does anything: later on there is garbage, and
    `gc.freeze` would keep it for good.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
