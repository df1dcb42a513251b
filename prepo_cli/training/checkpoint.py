"""Checkpoints: whole or not there at all.

A checkpoint is written beside its final place, flushed to disk and renamed. It holds the model in the hub's format,
the tokenizer, the optimiser (`optimizer.pt`; the learning rate is a function of the step), and `state.json` with
`strategies.npz`: position of the stream, counters and the state of every strategy, arrays apart from scalars, nothing
pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prepo_cli.errors import RunError, UsageError
from prepo_cli.models import Policy

STATE_VERSION = 1
_ARRAY = "__array__"


def save(
    folder: Path,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int | None,
) -> Path:
    """Write `folder/step-000123`, then delete the oldest beyond `keep`.

    Raises:
        RunError: the disk is full or not writable; checkpoints written before are untouched.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-step-{step:06d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_model(partial / "model", policy)
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        document = {"version": STATE_VERSION, "step": step, "state": _split(state, arrays, "")}
        (partial / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        with (partial / "strategies.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"checkpoint {final} could not be written ({error.strerror or error}); older ones are whole"
        ) from error
    if keep is not None:
        for old in existing(folder)[:-keep]:
            shutil.rmtree(old)
    return final


def save_model(folder: Path, policy: Policy) -> None:
    """Model and tokenizer in the hub's format."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def existing(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def newest(folder: Path) -> Path:
    """The newest whole checkpoint; raises UsageError if there is none."""
    found = existing(folder)
    if not found:
        raise UsageError(f"nothing to resume: {folder} holds no whole checkpoint; start without --resume")
    return found[-1]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What was given to `save` as state."""
    document = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if document["version"] != STATE_VERSION:
        raise UsageError(f"{checkpoint} is of version {document['version']}, this prepo reads {STATE_VERSION}")
    with np.load(checkpoint / "strategies.npz", allow_pickle=False) as arrays:
        joined = _join(document["state"], arrays)
    assert isinstance(joined, dict)
    return joined


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """The optimiser as it was."""
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True))


def _split(value: Any, arrays: dict[str, Any], place: str) -> Any:
    """The value with every numpy array moved to `arrays`; numpy scalars become Python's."""
    if isinstance(value, np.ndarray):
        key = place.strip("/").replace("/", ".")
        arrays[key] = value
        return {_ARRAY: key}
    if isinstance(value, Mapping):
        return {str(key): _split(item, arrays, f"{place}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, arrays, f"{place}/{i}") for i, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _join(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        return arrays[value[_ARRAY]] if set(value) == {_ARRAY} else {k: _join(v, arrays) for k, v in value.items()}
    return [_join(item, arrays) for item in value] if isinstance(value, list) else value


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
