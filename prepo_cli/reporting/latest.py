"""`runs/latest`: a link beside the run folders to the one that was started last."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prepo_cli.files import PARTIAL
from prepo_cli.models import LATEST
from prepo_cli.ownership import read_marker
from prepo_cli.terminal import say


def link_latest(folder: Path) -> None:
    """Point `runs/latest` to a run folder in `runs`.

    The link is relative and replaced atomically, so that of several concurrent processes the last one wins. Runs
    elsewhere don't get one, nor those of a study, and nothing but such a link is ever replaced.
    """
    place = LATEST.parent
    if Path(os.path.abspath(folder)).parent != Path(os.path.abspath(place)) or read_marker(place) is not None:
        return
    temporary = LATEST.with_name(f"{PARTIAL}{LATEST.name}-{os.getpid()}")
    try:
        with suppress(FileExistsError):
            LATEST.symlink_to(folder.name)
            return
        if not _is_ours():
            say(f"{LATEST} was not created by prepo and is left alone; --model latest won't find this run")
            return
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(LATEST)
    except OSError as error:  # such as a file system without links
        temporary.unlink(missing_ok=True)
        say(f"can't create the link {LATEST} ({error.strerror}); --model latest won't find this run")


def _is_ours() -> bool:
    """Whether it is a link to a folder beside it."""
    return LATEST.is_symlink() and LATEST.readlink().parent == Path()
