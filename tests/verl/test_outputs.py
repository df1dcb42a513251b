"""An agent that returns several outputs: they are one rollout, of the last one's reward."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

import tests.verl.loud  # noqa: F401
from strategies import Group, RolloutFilter
from strategies.types import StepContext
from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

PREPO = "trainer.v1.trainer_mode=prepo"


class AllButTheFirst(RolloutFilter):
    """Every rollout but the first of a group."""

    def keep(self, group: Group, ctx: StepContext) -> np.ndarray:
        return np.arange(len(group.completions)) > 0


def test_outputs_of_a_session_are_one_rollout(tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = [
        "actor_rollout_ref.rollout.agent.default_agent_loop=twice",
        f"+prepo.filter='{__file__}:AllButTheFirst'",
    ]
    world = World(config(tmp_path, PREPO, *overrides, "trainer.total_training_steps=1")).fit()
    costs, update = world.trainer.session.costs, world.worker.updates[0]
    assert (costs.rollouts_total, costs.rollouts_trained) == (6 * 4, 6 * 3)
    trained = [key for key, padding in zip(update["keys"], update["padding"], strict=True) if not padding]
    assert len(trained) == 6 * 3 * 2 and not any(key.split("_")[1] == "0" for key in trained)
    answers = [len(answer) for _, answer, _ in world.judge.seen]
    assert costs.tokens_generated > sum(answers) and len(answers) == 6 * 4, "both outputs are charged, one is judged"
    rewards, advantages = defaultdict(dict), {}
    for i, key in enumerate(update["keys"]):
        if not update["padding"][i]:
            uid, session, output = key.split("_")
            advantages[key] = update["advantages"][i]
            rewards[uid].setdefault(session, {})[output] = update["rm_scores"][i].sum()
    for uid, sessions in rewards.items():
        last = np.array([outputs["1"] for outputs in sessions.values()])
        normalized = (last - last.mean()) / (last.std(ddof=1) + 1e-6)
        for session, expected in zip(sessions, normalized, strict=True):
            for output in "01":
                np.testing.assert_allclose(advantages[f"{uid}_{session}_{output}"], expected, rtol=1e-5, atol=1e-6)
