"""Checkpoints come back exactly, and are whole or not there."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from prepo_cli import manifest
from prepo_cli.config import ASSETS
from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.tensors import full_state
from prepo_cli.sections import TrainingConfig
from prepo_cli.training import checkpoint
from prepo_cli.training.whole_folder import whole_folder
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


def test_a_copy_that_somebody_keeps_is_no_checkpoint_of_the_run(tmp_path: Path) -> None:
    shutil.copytree(fake(tmp_path, 1), tmp_path / "step-000001-copy2")
    for step in (999_999, 1_000_000):
        fake(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-000001-copy2", "step-1000000", "step-999999"]
    assert checkpoint.newest(tmp_path).name == "step-1000000"


def fake(folder: Path, step: int, keep: int | None = None, size: int = 40) -> Path:
    """A checkpoint without a real model."""

    def write(partial: Path) -> None:
        (partial / "model").mkdir()
        (partial / "model" / "model.safetensors").write_bytes(bytes(size))
        (partial / "model" / "chat_template.jinja").write_text("{{ messages }}")
        (partial / checkpoint.OPTIMIZER).write_bytes(bytes(size))

    return checkpoint.save(folder, step, write, STATE, keep)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/chat_template.jinja", "optimizer.pt",
                                  "state.json", "strategies.npz", "prepo-manifest.json"])  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    for step in (1, 2, 3):
        fake(tmp_path, step)
    flip(tmp_path / "step-000003" / file, 77)
    (tmp_path / "step-000002" / "model" / "chat_template.jinja").unlink()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000001"
    said = capsys.readouterr().err
    problem = "damaged" if "manifest" in file else "content differs"
    assert f"checkpoint step-000003 is damaged: {file}: {problem}; resuming from step-000001" in said
    assert "checkpoint step-000002 is damaged: model/chat_template.jinja: missing; resuming from step-000001" in said
    assert names(tmp_path) == ["damaged-step-000002", "damaged-step-000003", "step-000001"]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000001"
    assert capsys.readouterr().err == ""


def test_one_bit_anywhere_in_a_real_checkpoint_is_found(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    files = [path for path in sorted(newer.rglob("*")) if path.is_file()]
    assert len(files) >= 6
    rng = np.random.default_rng(0)
    for number in range(200):
        path = files[number % len(files)]
        bit = int(rng.integers(8 * path.stat().st_size))
        flip(path, bit)
        assert checkpoint.newest(tmp_path) == older, (path, bit)
        (tmp_path / f"damaged-{newer.name}").rename(newer)
        flip(path, bit)
    assert checkpoint.newest(tmp_path) == newer


def test_no_file_of_a_real_checkpoint_may_be_missing_or_added(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    for path in [path for path in newer.rglob("*") if path.is_file()]:
        away = path.rename(tmp_path / "away")
        assert checkpoint.newest(tmp_path) == older, path
        (tmp_path / f"damaged-{newer.name}").rename(newer)
        away.rename(path)
    (newer / "model" / "added_tokens.json").write_text("{}")
    assert checkpoint.newest(tmp_path) == older


def test_no_whole_checkpoint_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    for step in (1, 2):
        flip(fake(tmp_path, step) / "optimizer.pt", 5)
    with pytest.raises(
        UsageError, match=r"every checkpoint in .* is damaged; step-000002: optimizer.pt: content differs; restore"
    ):
        checkpoint.newest(tmp_path)
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_damaged_checkpoints_neither_count_nor_stand_in_the_way(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        fake(tmp_path, step)
    for _ in range(2):
        flip(tmp_path / "step-000003" / "optimizer.pt", 5)
        assert checkpoint.newest(tmp_path).name == "step-000002"
        fake(tmp_path, 3, keep=2)
        assert [path.name for path in checkpoint.existing(tmp_path)] == ["step-000002", "step-000003"]
        assert checkpoint.newest(tmp_path).name == "step-000003"
    assert names(tmp_path)[:2] == ["damaged-step-000003", "damaged-step-000003-1"]
    (tmp_path / "step-000004").mkdir()
    (tmp_path / "step-000004" / "notes").write_text("mine")
    assert checkpoint.newest(fake(tmp_path, 4, keep=1).parent).name == "step-000004"
    assert (tmp_path / "damaged-step-000004" / "notes").read_text() == "mine"


def test_old_checkpoints_are_deleted_but_not_what_others_put_there(tmp_path: Path) -> None:
    (fake(tmp_path, 1) / "model" / "notes").write_text("mine")
    (fake(tmp_path, 2) / "prepo-manifest.json").write_text("{}")
    fake(tmp_path, 3, keep=1)
    assert [path.name for path in checkpoint.existing(tmp_path)] == ["step-000003"]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.glob("step-000001/**/*") if path.is_file()] == [
        "step-000001/model/notes"
    ]
    assert (tmp_path / "damaged-step-000002" / "optimizer.pt").is_file()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let files grow beyond this, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_wherever_the_disk_is_full_it_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    """Every file's writer, Python's, torch's, safetensors' or tokenizers', fails in turn."""
    policy, layout = parts()
    policy.tokenizer = load_tokenizer(str(ASSETS / "model"))
    write = partial(write_tensors, policy, layout)
    whole = checkpoint.save(tmp_path / "whole", 1, write, STATE, None)
    sizes = {path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    for size in sizes:
        with largest_file(size - 1), pytest.raises(RunError) as raised:
            checkpoint.save(tmp_path / "full", 2, write, STATE, None)
        assert "step-000002 (" in str(raised.value)
        assert "earlier checkpoints are intact" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert names(tmp_path / "full") == []
    assert checkpoint.newest(checkpoint.save(tmp_path / "full", 2, write, STATE, None).parent).name == "step-000002"


def test_free_space_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, 1, size=1_500_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_900_000))

    def write(folder: Path) -> None:
        raise AssertionError

    with pytest.raises(RunError, match=r"step-000002 \(No space .*: 2.9 MB free, 3.0 MB needed\); .* free some space"):
        checkpoint.save(tmp_path, 2, write, STATE, None, expected_bytes=1)
    with pytest.raises(RunError, match=r"step-000002 \(No space .*: 2.9 MB free, 3.1 MB needed\)"):
        checkpoint.save(tmp_path / "other", 2, write, STATE, None, expected_bytes=3_100_000)
    assert names(tmp_path) == ["other", "step-000001"]
    monkeypatch.undo()
    assert checkpoint.newest(fake(tmp_path, 2).parent).name == "step-000002"


def test_the_size_of_a_checkpoint_is_known_beforehand(tmp_path: Path) -> None:
    policy, layout = parts()
    expected = checkpoint.expected_bytes(policy, layout.parameters)
    saved = checkpoint.save(tmp_path, 1, partial(write_tensors, policy, layout), STATE, None)
    tensors = sum((saved / name).stat().st_size for name in ("model/model.safetensors", "optimizer.pt"))
    assert expected == pytest.approx(tensors, rel=0.4)  # of a model so small that names take a third
    assert expected < tensors


def test_an_error_that_is_not_the_disks_is_not_renamed(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise ValueError("no such tensor")

    with pytest.raises(ValueError, match="no such tensor"):
        checkpoint.save(tmp_path, 2, write, STATE, None)
    assert names(tmp_path) == []


def test_an_export_replaces_its_files_and_leaves_others(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def export(text: str) -> None:
        with whole_folder(final, 10) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "model").write_text(text)

    export("one")
    (final / "thesis.tex").write_text("mine")
    export("two")
    manifest.verify(final, part=final)
    assert (final / "sub" / "model").read_text() == "two"
    assert (final / "thesis.tex").read_text() == "mine"
    assert names(tmp_path) == ["final"]


def test_an_export_killed_while_it_replaces_files_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "final"
    replace, replaced = Path.replace, []

    def export(text: str) -> None:
        with whole_folder(final, 0) as folder:
            for name in ("config.json", "model.safetensors"):
                (folder / name).write_text(text)

    def strike(self: Path, target: Path) -> Path:
        if target.parent == final:
            if replaced:
                raise KeyboardInterrupt
            replaced.append(target)
        return replace(self, target)

    export("one")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", strike)
        with pytest.raises(KeyboardInterrupt):
            export("two")
    with pytest.raises(manifest.Damaged, match=f"{replaced[0].name}: content differs"):
        manifest.verify(final, part=final)
    export("two")
    manifest.verify(final)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    saved = fake(tmp_path, 3)
    document = json.loads((saved / "state.json").read_text(encoding="utf-8"))
    (saved / "state.json").write_text(json.dumps(document | {"version": 3}), encoding="utf-8")
    (saved / "prepo-manifest.json").unlink()
    old = r"version 3, but this prepo reads only version 4; .*--overwrite"
    with pytest.raises(UsageError, match=old):
        checkpoint.newest(tmp_path)
    with pytest.raises(UsageError, match=old):
        checkpoint.read_state(saved)


def test_a_newest_checkpoint_without_manifest_and_state_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = fake(tmp_path, 1), fake(tmp_path, 2)
    for name in ("prepo-manifest.json", "state.json"):
        (newer / name).unlink()
    assert checkpoint.newest(tmp_path) == older
    assert "step-000002 is damaged: prepo-manifest.json: missing; resuming from step-000001" in capsys.readouterr().err


def test_a_torn_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-000005").mkdir()
    (tmp_path / "step-000007").mkdir()
    with pytest.raises(UsageError, match="nothing to resume"):
        checkpoint.newest(tmp_path)
