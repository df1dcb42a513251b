"""Starting without garbage collection: imports and loading create a million objects and free hardly any.

The collector walks through all of them again and again, which takes a fifth of a start's time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Nothing is collected within; does nothing if collection is off already."""
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

    Only the first block in a process does anything: later on there is garbage, and `gc.freeze` would keep it for good.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    with collection_paused():
        yield
        gc.freeze()
