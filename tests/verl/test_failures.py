"""Rollouts that fail, rounds that keep nothing, and rewards that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.errors import RunError
from tests.verl.queue import MemoryQueue
from tests.verl.world import Judge, World, config

PREPO = "trainer.v1.trainer_mode=prepo"
DAPO = [PREPO, "+prepo.recipe=dapo", "+prepo.max_rounds=2", "trainer.total_training_steps=4"]


def test_prompts_whose_rollouts_fail_are_replaced_where_the_filter_refills(tmp_path: Path, queue: MemoryQueue) -> None:
    judge = Judge()
    judge.failing = set(range(0, 24, 3))
    world = World(config(tmp_path, *DAPO), judge).fit()
    assert len(world.worker.updates) == 4
    rows = {row for update in world.worker.updates for row in update["index"]}
    assert rows and not rows & judge.failing
    assert len(world.loops.batches) > 4
    assert world.trainer.session.costs.rollouts_total == len(judge.seen)


def test_a_step_that_keeps_nothing_updates_nothing(tmp_path: Path, queue: MemoryQueue) -> None:
    world = World(config(tmp_path, *DAPO), Judge(never=24)).fit()
    assert world.worker.updates == []
    costs = world.trainer.session.costs
    assert (costs.rollouts_total, costs.rollouts_trained) == (4 * 2 * 6 * 4, 0)
    assert queue.tags["train"] == {}


def test_a_step_all_of_whose_rollouts_fail_ends_the_run(tmp_path: Path, queue: MemoryQueue) -> None:
    judge = Judge()
    judge.failing = set(range(24))
    with pytest.raises(RunError, match="every rollout of step 1 failed"):
        World(config(tmp_path, *DAPO), judge).fit()


def test_rollouts_without_a_reward_end_the_run(tmp_path: Path, queue: MemoryQueue) -> None:
    class Silent(Judge):
        async def judge(self, data: object) -> dict[str, object]:
            return {"reward_score": None, "reward_extra_info": {}}

    with pytest.raises(RunError, match="has no reward; set a reward function"):
        World(config(tmp_path, *DAPO), Silent()).fit()
