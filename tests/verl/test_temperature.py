"""A schedule's temperature reaches the server, the trainer's log-probs and the update, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from verl.utils import tensordict_utils as tu

from strategies import TemperatureSchedule
from strategies.types import StepContext
from tests.verl.loud import LOUD
from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

PREPO = "trainer.v1.trainer_mode=prepo"
BASE = "actor_rollout_ref.rollout.temperature=0.8"


class Rising(TemperatureSchedule):
    """0.8, 0.9, 1.0, .."""

    def temperature(self, ctx: StepContext) -> float:
        return 0.8 + ctx.step / 10


def test_every_step_samples_and_trains_at_its_own_temperature(tmp_path: Path, queue: MemoryQueue) -> None:
    schedule = f"+prepo.temperature_schedule='{Path(__file__)}:Rising'"
    world = World(config(tmp_path, PREPO, BASE, schedule, "trainer.total_training_steps=3")).fit()
    expected = np.array([0.8, 0.9, 1.0])
    np.testing.assert_allclose(world.server.temperatures, expected.repeat(6 * 4))
    np.testing.assert_allclose(world.worker.temperatures, expected.repeat(2))
    first, second, _ = world.loops.batches
    assert "__temperature__" not in first, "at verl's own temperature its rows stay as they are"
    assert tu.get(second, "agent_name") == ["prepo"] * 6


def test_rows_keep_the_agent_loop_that_they_had(tmp_path: Path, queue: MemoryQueue) -> None:
    LOUD.clear()
    overrides = [
        "+prepo.temperature_schedule='constant:value=0.5'",
        "actor_rollout_ref.rollout.agent.default_agent_loop=loud",
    ]
    World(config(tmp_path, PREPO, BASE, *overrides, "trainer.total_training_steps=1")).fit()
    assert LOUD == [0.5] * 24


def test_without_a_schedule_verls_own_temperature_holds(tmp_path: Path, queue: MemoryQueue) -> None:
    world = World(config(tmp_path, PREPO, BASE, "+prepo.recipe=greso", "trainer.total_training_steps=1")).fit()
    assert set(world.server.temperatures) == set(world.worker.temperatures) == {0.8}
