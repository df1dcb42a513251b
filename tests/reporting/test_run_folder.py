"""Which settings a resumed run may change, what overwriting deletes, and what is done about damaged lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.files import read_lines
from prepo_cli.manifest import write_manifest
from prepo_cli.ownership import MARKER, Marker, write_unless_edited
from prepo_cli.reporting.resuming import differences, reason
from prepo_cli.reporting.run_folder import OURS, RunFolder
from prepo_cli.sections import RunConfig
from tests.killing import kill_after

MAY_CHANGE = (
    "recipe",
    "output_dir",
    "code_dir",
    "training.total_steps",
    "training.max_rollouts",
    "training.max_tokens",
    "training.max_seconds",
    "reporting.",
    "engine.",
    "rewards.workers",
    "rewards.memory_gb",
    "model.gradient_checkpointing",
    "model.attn_implementation",
    "training.fsdp",
    "training.max_tokens_per_micro_batch",
    "training.max_skipped_steps",
    "training.save_steps",
    "training.save_total_limit",
    "rewards.timeout_s",
    "rewards.batch_timeout_s",
    "rewards.on_error",
)
"""All settings, or sections, that decide where and how a run computes, and where it ends, but not what."""


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


def test_every_setting_that_may_not_change_has_a_reason() -> None:
    config = resolve()
    written = config.model_dump(mode="json")
    for key in leaves(RunConfig):
        for changed, _, _ in differences(with_another(written, key), config):
            assert reason(changed)


@pytest.mark.parametrize("finished", [False, True])
def test_a_refusal_says_why_and_what_to_do(tmp_path: Path, finished: bool) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(resolve(sets=["seed=3"])))
    if finished:
        (tmp_path / "final").mkdir()
    with pytest.raises(UsageError) as refusal:
        RunFolder(tmp_path).check(resolve(), resume=True, overwrite=False)
    instead = f"start a new run from its final model: --model {tmp_path} with another --output-dir"
    assert str(refusal.value) == (
        f"{tmp_path} was started with seed=3, not 0, and this can't change on resume, because all random "
        f"numbers are derived from it; resume without the change, or "
        f"{instead if finished else 'choose another --output-dir'}"
    )


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (["training.learning_rate=0.5"], [], "started with training.learning_rate=0.5, not 0.0001"),
        (
            ["data.chat_template_kwargs.thinking=true"],
            [],
            "started with data.chat_template_kwargs={'thinking': True}, not {}",
        ),
        (
            [],
            ["data.chat_template_kwargs.thinking=true"],
            "started with data.chat_template_kwargs={}, not {'thinking': True}",
        ),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, before: list[str], now: list[str], message: str) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(resolve(sets=before)))
    with pytest.raises(UsageError, match="resume without the change") as refusal:
        RunFolder(tmp_path).check(resolve(sets=now), resume=True, overwrite=False)
    assert message in str(refusal.value)


def test_an_allowed_change_is_resumed_and_written(tmp_path: Path) -> None:
    folder, changed = RunFolder(tmp_path), resolve(sets=["engine.name=vllm", "training.save_steps=3"])
    (tmp_path / "config.yaml").write_text(to_yaml(resolve()))
    folder.check(changed, resume=True, overwrite=False)
    folder.begin(changed, resume=True)
    assert folder.config.read_text() == to_yaml(changed)


@pytest.mark.parametrize("deleted", range(3))
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
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "checkpoints", "config.yaml", "rollouts"]


CONFIG = resolve()
SUMMARY = {
    "recipe": "prepo", "steps": 3, "metric": "avg@4", "before": None, "difference": None, "cost": {},
    "after": {"avg@4": {"value": 0.5, "low": 0.4, "high": 0.6}, "prompts": 10},
}  # fmt: skip
FOREIGN = (
    "notes.txt",
    "checkpoints/mine/x",
    "checkpoints/step-best/x",
    "checkpoints/step-000001/notes.txt",
    "final/thesis.tex",
    "rollouts/notes.txt",
    "rollouts/step_x.parquet",
    "tensorboard/notes.txt",
    "wandb/notes.txt",
    "skipped/notes.txt",
    "metrics.jsonl.damaged-by-hand",
    "README.md.orig",
)


def write_whole_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    with folder.claimed(CONFIG, resume=False, overwrite=False):
        folder.begin(CONFIG, resume=False)
        folder.append_metrics({"step": 0})
        folder.append_evaluation({"step": 1})
        folder.write_rollouts(0, {"reward": [1.0]})
        for model in (folder.checkpoints / "step-000001", folder.final):
            put(model / "model.safetensors", "ours")
            write_manifest(model)
        put(path / "tensorboard" / "events.out.tfevents.1.host", "ours")
        put(path / "wandb" / "offline-run-1-x" / "run-x.wandb", "ours")
        assert write_unless_edited(path, "README.md", "a card")
        folder.summary.write_text("{}")
    return folder


def put(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def marked(path: Path) -> None:
    Marker("run", OURS).write(path)
    put(path / "config.yaml", to_yaml(CONFIG))


def content(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    folder = write_whole_run(tmp_path / "run")
    for name in FOREIGN:
        put(folder.path / name)
    with folder.claimed(CONFIG, resume=False, overwrite=True):
        folder.begin(CONFIG, resume=False)
    assert content(folder.path) == {MARKER, "config.yaml", *FOREIGN}
    assert all((folder.path / name).read_text() == "mine" for name in FOREIGN)


def test_overwriting_without_foreign_files_leaves_a_new_folder(tmp_path: Path) -> None:
    folder = write_whole_run(tmp_path / "run")
    folder.begin(CONFIG, resume=False)
    assert {path.name for path in folder.path.iterdir()} == {MARKER, "config.yaml", "rollouts", "checkpoints"}


def test_a_checkpoint_with_a_damaged_manifest_is_set_aside(tmp_path: Path) -> None:
    folder = write_whole_run(tmp_path / "run")
    (folder.checkpoints / "step-000001" / "prepo-manifest.json").write_text("{")
    folder.begin(CONFIG, resume=False)
    assert {path.name for path in folder.checkpoints.iterdir()} == {"damaged-step-000001"}
    assert (folder.checkpoints / "damaged-step-000001" / "model.safetensors").read_text() == "ours"


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: put(path / "config.yaml", to_yaml(CONFIG).replace("seed: 0", "seed: 7")),
        lambda path: put(path / "notes.txt"),
        lambda path: Marker("evaluation", ("config.yaml",)).write(path),
        lambda path: (marked(path), put(path / "README.md")),
        lambda path: (marked(path), put(path / "final")),
        lambda path: (marked(path), put(path / "summary.json" / "x")),
        lambda path: (path.rmdir(), path.write_text("mine")),
        lambda path: (path.rmdir(), path.symlink_to("nowhere")),
        lambda path: (put(path / MARKER, "{"), put(path / "config.yaml", to_yaml(CONFIG))),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_refused_and_untouched(
    tmp_path: Path, make: Callable[[Path], Any], resume: bool, overwrite: bool
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    make(path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with (
        pytest.raises(UsageError, match=r"; |, or choose another"),
        RunFolder(path).claimed(CONFIG, resume=resume, overwrite=overwrite),
    ):
        pass
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_run_of_an_older_prepo_is_resumed_but_not_overwritten(tmp_path: Path) -> None:
    folder = write_whole_run(tmp_path)
    (tmp_path / MARKER).unlink()
    (tmp_path / "README.md").unlink()
    with (
        pytest.raises(UsageError, match="no prepo marker, so --overwrite won't touch it"),
        folder.claimed(CONFIG, resume=False, overwrite=True),
    ):
        pass
    with folder.claimed(CONFIG, resume=True, overwrite=False):
        folder.begin(CONFIG, resume=True)
    assert folder.is_ours
    assert folder.metrics.is_file()


def test_a_model_card_that_was_edited_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_whole_run(tmp_path)
    put(tmp_path / "README.md", "edited while the run went on")
    quiet = resolve(sets=["reporting.figures=false"])
    folder.finish(quiet, SUMMARY)
    assert (tmp_path / "README.md").read_text() == "edited while the run went on"
    assert "README.md was not written by prepo, so it is kept" in capsys.readouterr().err
    (tmp_path / "README.md").unlink()
    folder.finish(quiet, SUMMARY)
    assert "avg@4" in (tmp_path / "README.md").read_text()


def test_a_used_folder_is_refused_to_a_second_run_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.claimed(CONFIG, resume=False, overwrite=False):
        folder.begin(CONFIG, resume=False)
        for resume, overwrite in ((False, True), (True, False)):
            with (
                pytest.raises(UsageError, match="is in use by process"),
                folder.claimed(CONFIG, resume=resume, overwrite=overwrite),
            ):
                pass


def test_damaged_lines_are_named_and_the_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    lines = [json.dumps({"step": step}) for step in range(6)]
    lines[1], lines[4] = '{"step": 1, "rew', "\0\0"
    damaged = "\n".join(lines) + '\n{"ste'
    for copy in ("metrics.jsonl.damaged", "metrics.jsonl.damaged-1"):
        folder.metrics.write_text(damaged)
        folder.truncate(4, finished=False)
        assert folder.metrics.read_text() == "".join(f'{{"step": {step}}}\n' for step in (0, 2, 3))
        assert (tmp_path / copy).read_text() == damaged
        told = " ".join(capsys.readouterr().err.split())
        assert told.endswith(f"line 2, 5: kept the other lines, and copied the whole file to {copy}")
    folder.truncate(4, finished=False)
    assert capsys.readouterr().err == ""


def test_truncating_keeps_what_the_checkpoint_had_seen(tmp_path: Path) -> None:
    for finished, evaluated in ((False, [0, 2, 4]), (True, [0, 2])):
        folder = RunFolder(tmp_path / str(finished))
        folder.rollouts.mkdir(parents=True)
        for step in range(6):
            folder.append_metrics({"step": step})
            folder.write_rollouts(step, {"reward": [1.0]})
        put(folder.rollouts / "step_notes.txt")
        for step in (0, 2, 4, 6):
            folder.append_evaluation({"step": step})
        folder.truncate(4, finished=finished)
        assert [line["step"] for line in read_lines(folder.metrics)] == [0, 1, 2, 3]
        assert [line["step"] for line in read_lines(folder.evaluations)] == evaluated
        steps = [f"step_00000{step}.parquet" for step in range(4)]
        assert sorted(path.name for path in folder.rollouts.iterdir()) == [*steps, "step_notes.txt"]
