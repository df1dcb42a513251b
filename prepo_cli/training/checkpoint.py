"""Checkpoints, written atomically and verified before they are loaded: each is whole, or not used.

A checkpoint is written to a temporary folder, gets a manifest, is flushed to disk and renamed. It holds the model in
the hub's format with its tokenizer (or the adapters alone), the optimizer's full state by parameter name in
`optimizer.pt` (the learning rate is a function of the step), and the remaining state (the stream's position, counters,
every strategy's state) in `state.json`, with arrays in `strategies.npz` and nothing pickled. It does not depend on the
number of processes.

A damaged checkpoint is never deleted. Once a run resumes from an older one it is called `damaged-step-000123`, so that
it neither counts among the newest, which are kept, nor stands in the way of the run's own step 123.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prepo_cli import manifest
from prepo_cli.errors import UsageError
from prepo_cli.files import PARTIAL
from prepo_cli.manifest import Damaged
from prepo_cli.ownership import find_numbered, remove_listed, set_aside
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.tensors import size
from prepo_cli.terminal import say
from prepo_cli.training.whole_folder import whole_folder

STATE_VERSION = 4
OPTIMIZER, STATE, ARRAYS = "optimizer.pt", "state.json", "strategies.npz"
STEP = "step-"
_ARRAY = "__array__"


def save(
    folder: Path,
    step: int,
    write_tensors: Callable[[Path], None],
    state: Mapping[str, Any],
    keep: int | None,
    expected_bytes: int = 0,
) -> Path:
    """Write `folder/step-000123`, then delete all but the newest `keep` checkpoints.

    Args:
        write_tensors: writes model and optimizer into the folder it is given.
        expected_bytes: about how much is written, where no earlier checkpoint shows it.

    Raises:
        RunError: the disk is full or not writable; checkpoints written before are untouched.
    """
    final, earlier = folder / f"{STEP}{step:06d}", existing(folder)
    for left in _steps(folder, PARTIAL):
        shutil.rmtree(left)
    with whole_folder(final, _bytes(earlier[-1]) if earlier else expected_bytes) as partial:
        write_tensors(partial)
        write_state(partial, state)
        if final.exists():
            say(f"{final} contains other files and is kept as {set_aside(final).name}")
    if keep is not None:
        kept = existing(folder)[-keep:]
        for old in [path for path in _steps(folder) if path not in kept]:
            remove_listed(old)
            if _is_checkpoint(old):  # without a manifest that tells which files are ours
                set_aside(old)
    return final


def expected_bytes(policy: Policy, trained: Sequence[torch.nn.Parameter]) -> int:
    """About the size of a checkpoint: the weights that are saved (with adapters, only theirs) and both moments."""
    return model_bytes(policy.model.parameters() if policy.adapter is None else trained) + 2 * model_bytes(trained)


def model_bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    """The size of all weights."""
    return sum(size(parameter) * parameter.element_size() for parameter in parameters)


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
    """Write the optimizer's state by parameter name."""
    torch.save(dict(state), folder / OPTIMIZER)


def read_optimizer(checkpoint: Path) -> dict[str, Any]:
    """What `write_optimizer` wrote; tensors stay in the mapped file until they are used."""
    state: dict[str, Any] = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
    return state


def existing(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first, whole or damaged."""
    return [path for path in _steps(folder) if _is_checkpoint(path)]


def newest(folder: Path) -> Path:
    """The newest whole checkpoint, verified; newer ones, which are damaged, are named and set aside.

    Raises:
        UsageError: there is none, or it has another version's format.
    """
    broken: list[Damaged] = []
    for checkpoint in filter(Path.is_dir, reversed(_steps(folder))):
        try:
            _refuse_other_version(checkpoint)
            manifest.verify(checkpoint)
        except Damaged as error:
            broken.append(error)
            continue
        for damage in broken:
            kept = set_aside(damage.folder)
            say(
                f"checkpoint {damage.folder.name} is damaged: {damage}; resuming from "
                f"{checkpoint.name} and keeping the damaged one as {kept.name}"
            )
        return checkpoint
    if not broken:
        raise UsageError(f"nothing to resume: {folder} has no complete checkpoint; start over with --overwrite")
    raise UsageError(
        f"nothing to resume: every checkpoint in {folder} is damaged; {broken[0].folder.name}: "
        f"{broken[0]}; restore an intact copy, or start over with --overwrite"
    )


def _steps(folder: Path, prefix: str = "") -> list[Path]:
    """What is named like a checkpoint, oldest first."""
    return find_numbered(folder, f"{prefix}{STEP}#")


def _is_checkpoint(path: Path) -> bool:
    return (path / STATE).is_file() or manifest.has_manifest(path)


def _refuse_other_version(checkpoint: Path) -> None:
    """Refuse an older version's checkpoint, which has no manifest to be verified by."""
    if not manifest.has_manifest(checkpoint):
        try:
            version = json.loads((checkpoint / STATE).read_bytes())["version"]
        except (OSError, ValueError, TypeError, KeyError):
            return
        _refuse_version(checkpoint, version)


def _refuse_version(checkpoint: Path, version: Any) -> None:
    if version != STATE_VERSION:
        raise UsageError(
            f"{checkpoint} has format version {version}, but this prepo reads only version "
            f"{STATE_VERSION}; resume with the prepo version that wrote it, or start over with "
            "--overwrite"
        )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


def write_state(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write the state besides model and optimizer: scalars as JSON, arrays as npz, nothing pickled."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    document = {"version": STATE_VERSION, "state": _split(state, arrays, "")}
    (checkpoint / STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    with (checkpoint / ARRAYS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `write_state` wrote; raises UsageError if another version of prepo wrote it."""
    document = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    _refuse_version(checkpoint, document["version"])
    with np.load(checkpoint / ARRAYS, allow_pickle=False) as arrays:
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
