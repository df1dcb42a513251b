"""prepo's command line, in a process that kills itself with SIGKILL in the middle of writing files.

    python -m tests.chaos.striking 17 checkpoints/ config.yaml -- train --resume ...

dies before its 17th operation (open for writing, rename, deletion, a new folder) on a path that contains one of the
texts. Audit hooks see all of Python's file operations, however the code that makes them is written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
WRITING = os.O_WRONLY | os.O_RDWR


def strike_at(number: int, places: Sequence[str]) -> None:
    """Kill this process before its `number`-th operation on such a path."""
    act_at(number, places, lambda: os.kill(os.getpid(), signal.SIGKILL))


def act_at(number: int, places: Sequence[str], act: Callable[[], None]) -> None:
    """Act before this process's `number`-th operation on such a path; "os.rename final" is one that renames."""
    left, wanted = [number], [place.rpartition(" ")[::2] for place in places]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = event == "open" and (args[2] & WRITING or ".partial-" in str(args[0]))
        if (opened or event in EVENTS) and any(only in event and text in str(args[0]) for only, text in wanted):
            left[0] -= 1
            if left[0] == 0:
                act()

    sys.addaudithook(hook)


if __name__ == "__main__":
    from prepo_cli.main import main

    dashes = sys.argv.index("--")
    strike_at(int(sys.argv[1]), sys.argv[2:dashes])
    main(sys.argv[dashes + 1 :])
