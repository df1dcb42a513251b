"""Startup: a line right away, and no garbage collection while a million objects are created and hardly any freed.

The collector walks through all of them again and again, which takes a fifth of the start-up time.
"""

from __future__ import annotations

import gc
import os
import sys
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
    """Say that torch and transformers are imported, which takes seconds, and exempt what they create from collection.

    Only the first such block in a process has an effect: later `gc.freeze` would also keep garbage forever.
    """
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        from prepo_cli.terminal import say  # rich, which parsing does without

        say("loading torch and transformers")
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    with collection_paused():
        yield
        gc.freeze()
