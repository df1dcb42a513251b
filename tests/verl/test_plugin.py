"""A stranger's plug-in runs in verl by its name; verl finds the adapter by either of its doors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strategies import registry
from tests.verl.conforming import Tracker
from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

ROOT = Path(__file__).parents[2]
PREPO = "trainer.v1.trainer_mode=prepo"
FIND = "import verl; from verl.trainer.ppo.v1 import get_trainer_cls as get; print(get('prepo').__module__)"


def test_the_example_plug_in_trains_by_its_name(
    tmp_path: Path, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "add_a_strategy", site, ignore=shutil.ignore_patterns("*.toml"))
    (site / "prepo_short_answers-0.1.0.dist-info").mkdir()
    about = site / "prepo_short_answers-0.1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: prepo-short-answers\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[prepo.strategies]\nshort-answers = short_answers\n")
    monkeypatch.syspath_prepend(str(site))
    registry.load_plugins.cache_clear()
    overrides = ["+prepo.weighting='short-answers:power=1'", "trainer.total_training_steps=3"]
    logged: list[dict[str, float]] = []
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.Tracking", lambda **_: Tracker(logged))
    world = World(config(tmp_path, PREPO, *overrides)).fit()
    assert [line["weighting/steps_seen"] for line in logged] == [1, 2, 3]
    update = world.worker.updates[0]
    assert not any(update["padding"])
    lengths = np.array([len(row) for row in update["responses"]])
    weights = (lengths.mean() / lengths) / (lengths.mean() / lengths).mean()
    rewards, rows = np.array([row.sum() for row in update["rm_scores"]]), np.array(update["index"])
    for i, advantages in enumerate(update["advantages"]):
        group = rewards[rows == rows[i]]
        expected = weights[i] * (rewards[i] - group.mean()) / (group.std(ddof=1) + 1e-6)
        np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "door", [{"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": "prepo_cli.integrations.verl"}, {}]
)
def test_verl_loads_the_adapter_when_it_is_imported(door: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIND], capture_output=True, text=True, env=os.environ | door, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "prepo_cli.integrations.verl_trainer", done.stderr[-2000:]
