"""Which settings a resumed run may change: marked on the fields, refused by the run folder everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.reporting.run_folder import RunFolder, differences
from prepo_cli.sections import RunConfig
from tests.killing import kill_after

MAY_CHANGE = (
    "output_dir",
    "reporting.",
    "engine.",
    "rewards.workers",
    "model.gradient_checkpointing",
    "model.attn_implementation",
    "training.fsdp",
    "training.max_tokens_per_micro_batch",
    "training.save_steps",
    "training.save_total_limit",
)
"""All settings, or sections, that decide where and how a run computes, but not what."""


def leaves(model: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{place}{name}.")
        else:
            yield place + name


def with_another(settings: dict[str, Any], key: str) -> dict[str, Any]:
    name, _, rest = key.partition(".")
    return settings | {name: with_another(settings[name], rest) if rest else "another value"}


def test_exactly_these_settings_may_change_on_resume() -> None:
    config, keys = resolve(), list(leaves(RunConfig))
    written = config.model_dump(mode="json")
    assert len(keys) > 80
    found = {key: [changed for changed, _, _ in differences(with_another(written, key), config)] for key in keys}
    assert {key for key in keys if not found[key]} == {key for key in keys if key.startswith(MAY_CHANGE)}
    assert all(changed in ([], [key]) for key, changed in found.items())
    assert not list(differences(written, config))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (["training.learning_rate=0.5"], [], "its training.learning_rate is 0.5, not 0.0001"),
        (
            ["data.chat_template_kwargs.thinking=true"],
            [],
            "its data.chat_template_kwargs is {'thinking': True}, not {}",
        ),
        (
            [],
            ["data.chat_template_kwargs.thinking=true"],
            "its data.chat_template_kwargs is {}, not {'thinking': True}",
        ),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, before: list[str], now: list[str], message: str) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(resolve(sets=before)))
    with pytest.raises(UsageError, match="another run") as refusal:
        RunFolder(tmp_path).check(resolve(sets=now), resume=True, overwrite=False)
    assert message in str(refusal.value)


def test_an_allowed_change_is_resumed_and_written(tmp_path: Path) -> None:
    folder, changed = RunFolder(tmp_path), resolve(sets=["engine.name=vllm", "training.save_steps=3"])
    (tmp_path / "config.yaml").write_text(to_yaml(resolve()))
    folder.check(changed, resume=True, overwrite=False)
    folder.begin(changed, resume=True)
    assert folder.config.read_text() == to_yaml(changed)


@pytest.mark.parametrize("deleted", range(4))
def test_a_kill_while_overwriting_leaves_a_folder_that_can_be_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    folder, config = RunFolder(tmp_path), resolve(flags={"output_dir": str(tmp_path)})
    folder.begin(config, resume=False)
    folder.append_metrics({"step": 0})
    folder.summary.write_text("{}")
    kill_after(deleted, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        folder.begin(config, resume=False)
    monkeypatch.undo()
    folder.check(config, resume=False, overwrite=True)
    folder.begin(config, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.yaml", "rollouts"]
