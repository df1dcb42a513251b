"""Perplexities of prompts, by the actor's own pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.verl.queue import MemoryQueue
from tests.verl.world import Worker, World, config

PREPO = "trainer.v1.trainer_mode=prepo"


class Actor(Worker):
    """The log-prob of a token is -1/10 of its place, so that each span has its own perplexity; splits in twos."""

    def compute_log_prob(self, batch: Any) -> Any:
        assert len(batch) % (2 * 3) == 0, "ranks or micro-batches of different sizes"
        assert batch.extra_info["compute_loss"] is False
        return super().compute_log_prob(batch)

    def score(self, ids: list[int], tag: dict[str, Any], temperature: float) -> np.ndarray:
        assert temperature == 1.0
        return np.stack([-(np.arange(len(ids)) + 1) / 10, np.zeros(len(ids))])


@pytest.mark.parametrize("scope", ["question", "prompt"])
def test_perplexities_are_those_of_the_actors_log_probs(scope: str, tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = [
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=3",
        "actor_rollout_ref.rollout.temperature=0.5",
    ]
    trainer = World(config(tmp_path, PREPO, *overrides), worker=Actor()).trainer
    calls: list[str] = []
    trainer.global_steps = 5
    trainer.checkpoint_manager.sleep_replicas = lambda: calls.append("sleep")
    trainer.checkpoint_manager.update_weights = lambda step: calls.append(f"wake {step}")
    prompts = [trainer.training_set.prompt(i) for i in (3, 8, 1, 20)]
    found = trainer.session.probe.perplexity(prompts, scope)
    expected = []
    for prompt in prompts:
        rendered = trainer.training_set.rendered(prompt.index)
        start, end = rendered.question_span if scope == "question" else (1, len(rendered.token_ids))
        expected.append(np.exp(np.mean([place / 10 for place in range(start, end)])))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert calls == ["sleep", "wake 4"]
    assert not queue.tags["prepo"]
    assert trainer.session.costs.tokens_scored == sum(
        len(trainer.training_set.rendered(i).token_ids) for i in (3, 8, 1, 20)
    )


def test_a_selector_that_asks_for_perplexities_trains(tmp_path: Path, queue: MemoryQueue) -> None:
    world = World(config(tmp_path, PREPO, "+prepo.recipe=prepo", "trainer.total_training_steps=2")).fit()
    assert len(world.worker.updates) == 2
    assert world.trainer.session.costs.tokens_scored > 0
