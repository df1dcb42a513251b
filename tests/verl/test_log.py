"""What verl's logger gets from the strategies, and what its checkpoints hold of them."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest

from prepo_cli import metrics
from prepo_cli.errors import UsageError
from tests.verl.conforming import Tracker
from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

PREPO = "trainer.v1.trainer_mode=prepo"


def test_the_log_has_prepos_metrics_under_its_names(
    tmp_path: Path, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[list[dict[str, float]]] = []
    for overrides in ([], [PREPO, "+prepo.recipe=everything"]):
        MemoryQueue().install(monkeypatch)
        lines: list[dict[str, float]] = []
        logs.append(lines)
        monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.Tracking", lambda lines=lines, **_: Tracker(lines))
        world = World(config(tmp_path, *overrides, "trainer.total_training_steps=3")).fit()
    plain, ours = logs
    added = set(ours[-1]) - set(plain[-1])
    assert set(plain[-1]) <= set(ours[-1]), "something of verl's own log is missing"
    known = [*metrics.STEPS, *(m for each in metrics.of_strategies().values() for m in each)]
    assert [name for name in sorted(added) if not metrics.described(name, known)] == []
    slots = (
        "cost/",
        "selector/",
        "filter/",
        "weighting/",
        "temperature",
        "rounds",
        "reward_trained",
        "timing_s/select",
    )
    assert [slot for slot in slots if not any(name.startswith(slot) for name in added)] in ([], ["filter/"])
    costs = [line["cost/rollouts_total"] for line in ours]
    assert costs == sorted(costs) and costs[-1] == len(world.judge.seen)
    assert ours[0]["cost/seconds"] < ours[-1]["cost/seconds"]


def test_a_checkpoint_without_the_strategies_state_is_refused(tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = [PREPO, "+prepo.recipe=greso", "trainer.total_training_steps=1", "trainer.save_freq=1"]
    World(config(tmp_path, *overrides, "data.dataloader_num_workers=2")).fit()
    assert not multiprocessing.active_children(), "verl's dataloader was started to save its state"
    folder = tmp_path / "checkpoints" / "global_step_1"
    assert {path.name for path in folder.iterdir()} == {"actor", "data.pt", "prepo"}
    assert {path.suffix for path in (folder / "prepo").iterdir()} <= {".json", ".npz"}, "something may be pickled"
    shutil.rmtree(folder / "prepo")
    with pytest.raises(UsageError, match="no state of prepo's strategies"):
        World(config(tmp_path, *overrides))


def test_another_strategy_does_not_go_on_with_a_checkpoint(tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = [PREPO, "trainer.total_training_steps=1", "trainer.save_freq=1"]
    World(config(tmp_path, *overrides, "+prepo.recipe=greso")).fit()
    with pytest.raises(Exception, match="written with selector 'greso'"):
        World(config(tmp_path, *overrides, "+prepo.recipe=e3"))


def test_a_checkpoint_is_found_where_resume_from_path_says(tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = [PREPO, "+prepo.recipe=greso", "trainer.save_freq=1", "trainer.total_training_steps=2"]
    first = World(config(tmp_path, *overrides)).fit()
    path = tmp_path / "checkpoints" / "global_step_2"
    given = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}"]
    again = World(config(tmp_path, *overrides, *given, f"trainer.default_local_dir={tmp_path / 'other'}"))
    assert again.trainer.session.step == 2
    state, restored = (w.trainer.session.strategies.selector.state_dict() for w in (first, again))
    assert str(state) == str(restored)
