"""With neutral strategies verl's batches are as plain verl has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from verl.utils import tensordict_utils as tu

from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

NEUTRAL = [
    "trainer.v1.trainer_mode=prepo",
    "+prepo.selector=full",
    "+prepo.budget=uniform",
    "+prepo.filter=keep-all",
    "+prepo.weighting=uniform",
    "+prepo.temperature_schedule=constant",
]
FIELDS = ("responses", "response_mask", "rm_scores", "advantages", "entropy")


def test_ten_steps_are_those_of_plain_verl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also across epochs: 20 rows are three steps of 6 and a rest, which verl leaves out."""
    worlds = []
    for overrides in ([], NEUTRAL):
        MemoryQueue().install(monkeypatch)
        worlds.append(World(config(tmp_path, "actor_rollout_ref.rollout.temperature=0.7", *overrides, rows=20)).fit())
    plain, ours = worlds
    assert plain.rows() == ours.rows() and len(plain.rows()) == 10
    for mine, theirs in zip(ours.loops.batches, plain.loops.batches, strict=True):
        assert set(mine.keys()) == set(theirs.keys())
        for key in set(mine.keys()) - {"uid", "dummy_tensor"}:
            assert tu.get(mine, key) == tu.get(theirs, key), key
    assert ours.server.temperatures == plain.server.temperatures
    assert ours.worker.temperatures == plain.worker.temperatures
    assert len(ours.worker.updates) == len(plain.worker.updates) == 10
    for mine, theirs in zip(ours.worker.updates, plain.worker.updates, strict=True):
        assert trained(mine) == trained(theirs)


def test_two_runs_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order too, which that of plain verl is not: it depends on which rollout ends first."""
    worlds = []
    for _ in range(2):
        MemoryQueue().install(monkeypatch)
        worlds.append(World(config(tmp_path, *NEUTRAL)).fit())
    for mine, theirs in zip(*(world.worker.updates for world in worlds), strict=True):
        assert mine["index"] == theirs["index"]
        assert [row.tolist() for row in mine["responses"]] == [row.tolist() for row in theirs["responses"]]


def trained(update: dict[str, Any]) -> list[Any]:
    """What the actor was given, by row and session."""
    rows = zip(update["index"], update["keys"], update["padding"], *(update[name] for name in FIELDS), strict=True)
    return sorted(
        [index, key.split("_")[1:], pad, *(row.tolist() for row in found)] for index, key, pad, *found in rows
    )
