"""Checkpoints come back exactly, and are whole or not there."""

from __future__ import annotations

import errno
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.tensors import full_state
from prepo_cli.sections import TrainingConfig
from prepo_cli.training import checkpoint
from tests.models import make_policy


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def placed(policy: Policy) -> Replicated:
    training = TrainingConfig(learning_rate=0.01)
    return Replicated(policy, Processes(training), training)


def parts() -> tuple[Policy, Replicated]:
    policy = make_policy()
    policy.tokenizer = NoTokenizer()
    layout = placed(policy)
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    layout.optimizer.step()
    return policy, layout


STATE = {
    "stream": {"epoch": 3, "position": 7},
    "strategies": {
        "selector": {"name": "x", "state": {"p": np.float64(0.1), "labels": np.array([1, 2], dtype=np.int8)}},
        "budget": {"name": "y", "state": {"nested": [{"a": np.zeros((2, 2), dtype=np.float32)}, "text", None, True]}},
    },
}


def write_tensors(policy: Policy, layout: Replicated, folder: Path) -> None:
    checkpoint.write_model(folder / "model", policy, full_state(policy.model, keep=True))
    checkpoint.write_optimizer(folder, layout.optimizer_state(keep=True))


def save(folder: Path, step: int, keep: int | None = None) -> Path:
    return checkpoint.save(folder, step, partial(write_tensors, *parts()), STATE, keep)


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    back = checkpoint.read_state(save(tmp_path, 3))
    assert back["stream"] == STATE["stream"]
    labels = back["strategies"]["selector"]["state"]["labels"]
    assert labels.dtype == np.int8
    assert labels.tolist() == [1, 2]
    assert back["strategies"]["selector"]["state"]["p"] == 0.1
    nested = back["strategies"]["budget"]["state"]["nested"]
    assert nested[1:] == ["text", None, True]
    assert nested[0]["a"].shape == (2, 2)


def test_optimizer_and_model_come_back_byte_for_byte(tmp_path: Path) -> None:
    policy, layout = parts()
    saved = checkpoint.save(tmp_path, 1, partial(write_tensors, policy, layout), STATE, None)
    model = type(policy.model).from_pretrained(saved / "model")
    for (name, ours), (_, theirs) in zip(policy.model.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    other = make_policy()
    other.model = model
    fresh = placed(other)
    fresh.load_optimizer_state(checkpoint.read_optimizer(saved))
    for ours, theirs in zip(layout.optimizer.state.values(), fresh.optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 10, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["step-000010", "step-000100"]
    assert checkpoint.newest(tmp_path).name == "step-000100"


def test_a_full_disk_leaves_older_checkpoints_and_no_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    checkpoint.write_state(tmp_path, {"step": 1})
    document = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    (tmp_path / "state.json").write_text(json.dumps(document | {"version": 2}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"version 2, but this prepo reads only version 3; .*--overwrite"):
        checkpoint.read_state(tmp_path)


def test_a_torn_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-000005").mkdir()
    (tmp_path / "step-000007").mkdir()
    with pytest.raises(UsageError, match="nothing to resume"):
        checkpoint.newest(tmp_path)
