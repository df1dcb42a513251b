"""Starting without garbage collection: imports and loading create a million objects and free hardly any.

The collector walks through all of them again and again, which takes a fifth of the start-up time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection; no effect if it is already off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def large_imports() -> Iterator[None]:
    """Pause collection while torch and transformers are imported, then exempt what they created from it.

    Only the first such block in a process has an effect: later `gc.freeze` would also keep garbage forever.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    with collection_paused():
        yield
        gc.freeze()
