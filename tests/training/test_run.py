"""Whole runs on the embedded model: equal seeds, interruption and resumption, learning, bookkeeping."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import prepo_cli
from prepo_cli.config import resolve
from prepo_cli.engines.hf import HfEngine
from prepo_cli.errors import UsageError
from prepo_cli.manifest import verify
from prepo_cli.training import build
from prepo_cli.training.collect import Collector
from prepo_cli.training.rollouts import Collected, Sample
from prepo_cli.training.stopwatch import Stopwatch
from prepo_cli.training.train import train
from strategies.types import StepContext
from tests.metrics import timeless

SMALL = [
    "training.total_steps=4",
    "training.prompts_per_step=4",
    "training.num_generations=4",
    "training.max_completion_length=32",
    "training.save_steps=1",
    "training.save_total_limit=10",
    "evaluation.dataset_name=null",
    "reporting.figures=false",
]
ALL_STATEFUL = ["strategies.filter=nonzero-variance", "training.max_rounds=3"]


def run(folder: Path, *sets: str, **options: Any) -> dict[str, Any]:
    return train(resolve(sets=[*SMALL, f"output_dir={folder}", *sets]), **options)


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, *ALL_STATEFUL)
    return folder


def test_same_seed_same_run(uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", *ALL_STATEFUL)
    assert timeless(tmp_path / "again") == timeless(uninterrupted)
    assert weights(tmp_path / "again") == weights(uninterrupted)


def test_another_seed_is_another_run(uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path / "other", *ALL_STATEFUL, "seed=1")
    assert timeless(tmp_path / "other") != timeless(uninterrupted)
    assert weights(tmp_path / "other") != weights(uninterrupted)


@pytest.mark.parametrize("step", [1, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(uninterrupted: Path, tmp_path: Path, step: int) -> None:
    """What a kill leaves: checkpoints up to a step, and a log that is further, its last line torn."""
    folder = tmp_path / "killed"
    shutil.copytree(uninterrupted, folder)
    shutil.rmtree(folder / "final")
    (folder / "summary.json").unlink()
    for checkpoint in sorted((folder / "checkpoints").iterdir())[step:]:
        shutil.rmtree(checkpoint)
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text()[:-40])
    run(folder, *ALL_STATEFUL, resume=True)
    assert timeless(folder) == timeless(uninterrupted)
    assert weights(folder) == weights(uninterrupted)


def test_an_interrupt_saves_the_step_and_can_be_resumed(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Collector.collect

    def interrupt_in_second_step(self: Collector, ctx: StepContext, watch: Stopwatch) -> Collected[Sample]:
        if ctx.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return collect(self, ctx, watch)

    monkeypatch.setattr(Collector, "collect", interrupt_in_second_step)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(tmp_path / "run", *ALL_STATEFUL, "training.save_steps=100")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    run(tmp_path / "run", *ALL_STATEFUL, "training.save_steps=100", resume=True)
    assert timeless(tmp_path / "run") == timeless(uninterrupted)
    assert weights(tmp_path / "run") == weights(uninterrupted)


def test_costs_charge_every_rollout(uninterrupted: Path) -> None:
    trained = total = tokens = 0
    for line in timeless(uninterrupted):
        rows = pq.read_table(uninterrupted / "rollouts" / f"step_{line['step']:06d}.parquet").to_pylist()
        total += len(rows)
        trained += sum(row["fate"] == "trained" for row in rows)
        tokens += sum(row["length"] for row in rows)
        assert (line["cost/rollouts_total"], line["cost/rollouts_trained"]) == (total, trained)
        assert line["cost/tokens_generated"] == tokens
        groups = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
        zero = [len({row["reward"] for row in group}) == 1 for group in groups.values()]
        assert line["frac_reward_zero_std"] == pytest.approx(np.mean(zero))
        for group, flat in zip(groups.values(), zero, strict=True):
            assert all((row["fate"] == "filtered") == flat for row in group if row["fate"] != "surplus")


def test_rollouts_are_logged_with_their_prompts(uninterrupted: Path) -> None:
    task = (Path(prepo_cli.__file__).parent / "assets" / "task" / "train.jsonl").read_text(encoding="utf-8")
    questions = {row["id"]: row["prompt"] for row in map(json.loads, task.splitlines())}
    rows = pq.read_table(uninterrupted / "rollouts" / "step_000000.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [questions[row["prompt_id"]] for row in rows]


def test_training_learns_and_a_zero_learning_signal_does_not(tmp_path: Path) -> None:
    """Rewarding an empty box, which the base rarely writes, must raise that reward within a few steps."""
    sets = ["training.total_steps=8", "training.prompts_per_step=8", "training.num_generations=8"]
    reward = "tests.training.rewards:short"
    run(tmp_path / "short", *sets, f"rewards.functions=[{reward}]", "training.learning_rate=1e-3", "recipe=random")
    rewards = [line["reward"] for line in timeless(tmp_path / "short")]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.1
    run(tmp_path / "flat", *sets, "rewards.functions=[tests.training.rewards:constant]", "recipe=random")
    flat = timeless(tmp_path / "flat")
    assert all(line["grad_norm"] == 0 and line["frac_reward_zero_std"] == 1 for line in flat)


def test_an_empty_batch_skips_the_update_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, *ALL_STATEFUL, "rewards.functions=[tests.training.rewards:constant]", overwrite=True)
    for line in timeless(tmp_path):
        assert line["updated"] is False
        assert (line["rounds"], line["groups_trained"], line["cost/rollouts_trained"]) == (3, 0, 0)
    assert timeless(tmp_path)[-1]["cost/rollouts_total"] == 4 * 3 * 16


def test_resuming_keeps_every_evaluation_once(tmp_path: Path) -> None:
    sets = ["evaluation.dataset_name=embedded", "evaluation.limit=2", "evaluation.num_samples=2",
            "evaluation.eval_steps=1"]  # fmt: skip
    run(tmp_path / "run", *sets)

    def evaluated() -> list[tuple[int, float]]:
        lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
        return [(line["step"], line["avg@2"]["value"]) for line in map(json.loads, lines)]

    whole = evaluated()
    assert [step for step, _ in whole] == [0, 1, 2, 3, 4]
    run(tmp_path / "run", *sets, resume=True)
    assert evaluated() == whole
    for newest in (4, 3):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{newest:06d}")
    run(tmp_path / "run", *sets, resume=True)
    assert evaluated() == whole


def test_bf16_kl_and_mini_batches_train_and_resume(tmp_path: Path) -> None:
    """Off-policy updates in bfloat16: old log-probs are recomputed, the reference is the starting model."""
    sets = ["training.mixed_precision=bf16", "training.beta=0.05", "training.mini_batch_prompts=2",
            "training.num_iterations=2", "training.learning_rate=1e-4", "recipe=random"]  # fmt: skip
    run(tmp_path / "run", *sets)
    lines = timeless(tmp_path / "run")
    assert 0 < lines[0]["kl"] < lines[-1]["kl"] < 0.1
    assert all(0 < line["sampling/logp_difference"] < 0.2 for line in lines)
    assert lines[-1]["cost/tokens_scored"] > 0
    whole = weights(tmp_path / "run")
    for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())[2:]:
        shutil.rmtree(checkpoint)
    run(tmp_path / "run", *sets, resume=True)
    assert timeless(tmp_path / "run") == lines
    assert weights(tmp_path / "run") == whole


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        run(tmp_path / "none", resume=True)


@pytest.mark.parametrize(("save_steps", "finished"), [(5, False), (4, False), (5, True)])
def test_without_a_checkpoint_a_run_starts_again_unless_one_was_due(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_steps: int, finished: bool
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    shutil.rmtree(folder / "checkpoints")
    if not finished:
        shutil.rmtree(folder / "final")
    sets = [*ALL_STATEFUL, f"training.save_steps={save_steps}"]
    if save_steps == 5 and not finished:
        run(folder, *sets, resume=True)
        assert "has no checkpoint yet; starting again from step 0" in " ".join(capsys.readouterr().err.split())
        assert weights(folder) == weights(uninterrupted)
    else:
        with pytest.raises(UsageError, match="has no complete checkpoint; start over with --overwrite"):
            run(folder, *sets, resume=True)
    assert timeless(folder) == timeless(uninterrupted)


def test_a_model_that_somebody_changed_is_kept(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "final" / "prepo-manifest.json").unlink()
    (folder / "final" / "model.safetensors").write_text("mine")
    (folder / "final" / "notes").write_text("mine too")
    for options in ({"resume": True}, {"overwrite": True}):
        run(folder, *ALL_STATEFUL, **options)
        assert weights(folder) == weights(uninterrupted)
        verify(folder / "final", part=folder / "final")
        assert (folder / "final" / "model.safetensors.changed").read_text() == "mine"
        assert (folder / "final" / "notes").read_text() == "mine too"
        assert not (folder / "final" / "model.safetensors.changed-1").exists()


def test_a_folder_with_another_run_is_refused(uninterrupted: Path) -> None:
    before = weights(uninterrupted)
    with pytest.raises(UsageError, match="--resume"):
        run(uninterrupted, "seed=5")
    assert weights(uninterrupted) == before


def test_no_room_for_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_completion_length=5000"):
        run(tmp_path / "run", "training.max_completion_length=5000")


class Separate(HfEngine):
    """An engine with weights of its own, which are the trainer's, and without entropies."""

    shares_weights = exact_logprobs = False

    def generate(self, requests: Any, progress: Any = None) -> Any:
        return [
            [replace(rollout, entropies=None) for rollout in group] for group in super().generate(requests, progress)
        ]


@pytest.mark.parametrize(("weighting", "scored"), [("uniform", False), ("rel-entropy", True)])
def test_a_resumed_run_with_a_separate_engine_costs_what_an_uninterrupted_one_does(
    weighting: str, scored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of the engine, which a resumed run repeats, are not charged; only entropies asked for cost a pass."""
    monkeypatch.setattr(build, "build_engine", lambda config, policy, *parts, **options: Separate(policy, 10_000))
    sets = ["recipe=random", f"strategies.weighting={weighting}"]
    run(tmp_path / "run", *sets)
    lines = timeless(tmp_path / "run")
    assert (lines[-1]["cost/tokens_scored"] > 0) is scored
    assert all(line["entropy"] > 0 for line in lines if line["updated"])
    for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())[2:]:
        shutil.rmtree(checkpoint)
    run(tmp_path / "run", *sets, resume=True)
    assert timeless(tmp_path / "run") == lines


def test_prompts_that_are_too_long_are_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    questions = ["What is 1 + 1?"] * 3 + ["What is " + "1 + " * 60 + "1?"] * 2
    rows = [json.dumps({"prompt": question, "answer": "2"}) for question in questions]
    data.write_text("\n".join(rows) + "\n")
    run(tmp_path / "run", f"data.dataset_name={data}", "data.max_prompt_length=40", "recipe=full")
    assert timeless(tmp_path / "run")[-1]["prompts/left_out"] == 2
    assert "left out for exceeding 40 tokens: 2 prompts" in capsys.readouterr().err


def test_an_evaluation_set_whose_prompts_are_all_too_long_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(2 * (json.dumps({"prompt": "What is " + "1 + " * 60 + "1?", "answer": "61"}) + "\n"))
    evaluated = [f"evaluation.dataset_name={data}", "evaluation.split=train", "data.max_prompt_length=40"]
    with pytest.raises(UsageError, match=r"all 2 evaluation prompts are longer than 40 tokens; raise data.max_prompt"):
        run(tmp_path / "run", *evaluated)
