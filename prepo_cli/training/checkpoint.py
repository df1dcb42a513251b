"""Checkpoints, written atomically: each is complete or absent.

A checkpoint is written to a temporary folder, flushed to disk and renamed. It holds the model in the hub's format with
its tokenizer (or the adapters alone), the optimiser's full state by parameter name in `optimizer.pt` (the learning rate
is a function of the step), and the remaining state (the stream's position, counters, every strategy's state) in
`state.json`, with arrays in `strategies.npz` and nothing pickled. It does not depend on the number of processes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prepo_cli.errors import RunError, UsageError
from prepo_cli.files import PARTIAL, flush
from prepo_cli.policy.policy import Policy

STATE_VERSION = 3
OPTIMIZER = "optimizer.pt"
_ARRAY = "__array__"


def save(
    folder: Path, step: int, write_tensors: Callable[[Path], None], state: Mapping[str, Any], keep: int | None
) -> Path:
    """Write `folder/step-000123`, then delete all but the newest `keep` checkpoints.

    Args:
        write_tensors: writes model and optimiser into the folder it is given.

    Raises:
        RunError: the disk is full or not writable; checkpoints written before are untouched.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f"{PARTIAL}{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_tensors(partial)
        write_state(partial, state)
        for path in (*partial.rglob("*"), partial):
            flush(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"can't write checkpoint {final} ({error.strerror or error}); earlier ones are intact; fix that, then "
            "continue with --resume"
        ) from error
    if keep is not None:
        for old in existing(folder)[:-keep]:
            shutil.rmtree(old)
    return final


def write_model(folder: Path, policy: Policy, state: Mapping[str, torch.Tensor]) -> None:
    """Write the model with its tokenizer in the hub's format, or its adapters alone."""
    if policy.adapter is not None:
        policy.adapter.save_pretrained(folder, state_dict=state)
        return
    export_model(folder, policy, state)


def export_model(folder: Path, policy: Policy, state: Mapping[str, torch.Tensor]) -> None:
    """Write the full model with its tokenizer in the hub's format; `state` has unsharded weights, adapters merged."""
    with _unaware_of_deepspeed():
        policy.model.save_pretrained(folder, state_dict=state)
    policy.tokenizer.save_pretrained(folder)


@contextmanager
def _unaware_of_deepspeed() -> Iterator[None]:
    """Keep transformers from importing DeepSpeed just to check whether the model is wrapped in its engine.

    It never is, and a run that uses DeepSpeed has imported it already.
    """
    unused = "deepspeed" not in sys.modules
    if unused:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]  # makes the import fail
    try:
        yield
    finally:
        if unused:
            del sys.modules["deepspeed"]


def write_optimizer(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the optimiser's state by parameter name."""
    torch.save(dict(state), folder / OPTIMIZER)


def read_optimizer(checkpoint: Path) -> dict[str, Any]:
    """What `write_optimizer` wrote; tensors stay in the mapped file until they are used."""
    state: dict[str, Any] = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
    return state


def existing(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def newest(folder: Path) -> Path:
    """The newest complete checkpoint; raises UsageError if there is none."""
    found = existing(folder)
    if not found:
        raise UsageError(f"nothing to resume: {folder} holds no complete checkpoint; start without --resume")
    return found[-1]


def write_state(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write the state besides model and optimiser: scalars as JSON, arrays as npz, nothing pickled."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    document = {"version": STATE_VERSION, "state": _split(state, arrays, "")}
    (checkpoint / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    with (checkpoint / "strategies.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `write_state` wrote; raises UsageError if another version of prepo wrote it."""
    document = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if document["version"] != STATE_VERSION:
        raise UsageError(
            f"{checkpoint} has format version {document['version']}, but this prepo reads only version "
            f"{STATE_VERSION}; resume with the prepo that wrote it, or start over with --overwrite"
        )
    with np.load(checkpoint / "strategies.npz", allow_pickle=False) as arrays:
        joined = _join(document["state"], arrays)
    assert isinstance(joined, dict)
    return joined


def _split(value: Any, arrays: dict[str, Any], place: str) -> Any:
    """Move every numpy array to `arrays` and leave a reference to it; numpy scalars become Python ones."""
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
