"""The strategies' state in another trainer's checkpoint: a folder `prepo`, whole or absent, with nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prepo_cli import manifest
from prepo_cli.errors import UsageError
from prepo_cli.manifest import Damaged
from prepo_cli.training.checkpoint import read_state, write_state
from prepo_cli.training.whole_folder import whole_folder

FOLDER = "prepo"


def save(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write the state into a checkpoint's folder, which need not exist yet.

    Raises:
        RunError: the disk is full or not writable.
    """
    with whole_folder(checkpoint / FOLDER, 0) as partial:
        write_state(partial, state)


def load(checkpoint: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        UsageError: the checkpoint has no such state, it is damaged, or another version of prepo wrote it.
    """
    folder = checkpoint / FOLDER
    cure = "resume from another checkpoint, or start a new run"
    if not folder.is_dir():
        raise UsageError(f"{checkpoint} has no state of prepo's strategies (no folder '{FOLDER}'); {cure}")
    try:
        manifest.verify(folder)
    except Damaged as error:
        raise UsageError(f"the state of prepo's strategies in {folder} is damaged: {error}; {cure}") from error
    return read_state(folder)
