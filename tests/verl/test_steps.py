"""Ten steps of verl's trainer with strategies in every place, against a naive account of what must happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verl.utils import tensordict_utils as tu

from strategies import Batch, BudgetAllocator, Group, Prompt, PromptSource, RolloutFilter, RolloutWeighting, Selector
from strategies.types import StepContext
from tests.verl.queue import MemoryQueue
from tests.verl.world import Judge, World, config

HERE = Path(__file__)
PREPO = "trainer.v1.trainer_mode=prepo"


class Even(Selector):
    """Every second prompt of those that it takes."""

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        return source.take(2 * n)[::2]


class Ragged(BudgetAllocator):
    """2, 6, 2, 6, .. rollouts."""

    def allocate(self, prompts: Any, total: int, ctx: StepContext) -> list[int]:
        counts = [2 if i % 2 == 0 else 6 for i in range(len(prompts))]
        counts[-1] += total - sum(counts)
        return counts


class Mixed(RolloutFilter):
    """Groups with different rewards, without their longest rollout; refills."""

    refills = True

    def keep(self, group: Group, ctx: StepContext) -> np.ndarray:
        lengths = [c.num_tokens for c in group.completions]
        mask = np.full(len(lengths), len(set(group.rewards_N.tolist())) > 1)
        mask[int(np.argmax(lengths))] = False
        return mask


class ByToken(RolloutWeighting):
    """2 on tokens whose entropy is above 0.5, 1 on others."""

    needs_entropy = True

    def weigh(self, batch: Batch, ctx: StepContext) -> np.ndarray:
        assert batch.entropy_NT is not None
        return np.where(batch.entropy_NT > 0.5, 2.0, 1.0)


@dataclass
class Expected:
    """What a step must come to, by the naive account: rows of each round, and what is trained on."""

    rows: list[list[int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    kept: list[tuple[int, list[tuple[list[int], float]]]] = field(default_factory=list)


def account(world: World) -> list[Expected]:
    """Goes through what was submitted and judged."""
    batches, answers = iter(world.loops.batches), iter(world.judge.seen)
    steps = []
    for _ in range(10):
        step, rolled, equal = Expected(), 0, 0
        while len(step.rows) < 3 and len(step.kept) < 6:
            missing = 6 - len(step.kept)
            step.sizes.append(
                min(6, max(1, int(1.25 * missing / (1 - equal / rolled)))) if rolled and equal < rolled else 6
            )
            batch = next(batches)
            rows, counts = tu.get(batch, "index"), tu.get(batch, "__rollout_n__", [4] * len(batch))
            step.rows.append(rows)
            groups: dict[int, list[tuple[list[int], float]]] = {row: [] for row in rows}
            for row, tokens, reward in islice(answers, sum(counts)):
                groups[row].append((tokens, reward))
            assert [len(group) for group in groups.values()] == counts
            for row, group in groups.items():
                rolled, same = rolled + 1, len({reward for _, reward in group}) == 1
                equal += same
                longest = max(range(len(group)), key=lambda i: (len(group[i][0]), -i))
                if not same and len(step.kept) < 6:
                    step.kept.append((row, group[:longest] + group[longest + 1 :]))
        steps.append(step)
    assert next(batches, None) is None and next(answers, None) is None
    return steps


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        queue = MemoryQueue()
        queue.install(patch)
        slots = {"selector": "Even", "budget": "Ragged", "filter": "Mixed", "weighting": "ByToken"}
        overrides = [f"+prepo.{slot}='{HERE}:{name}'" for slot, name in slots.items()]
        made = World(
            config(tmp_path_factory.mktemp("steps"), PREPO, "+prepo.max_rounds=3", *overrides, rows=300),
            Judge(never=100, always=200),
        )
        made.fit()
        assert queue.tags["train"] == {} and queue.fields["train"] == {}, "something was left in verl's queue"
        yield made


def test_rows_are_those_that_the_strategies_chose_from_verls_own_order(world: World) -> None:
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3)).tolist()
    steps, position = account(world), 0
    assert max(len(step.rows) for step in steps) == 3, "nothing was refilled"
    for step in steps:
        assert [len(rows) for rows in step.rows] == step.sizes
        for rows in step.rows:
            if position + 2 * len(rows) <= len(order):  # the first epoch
                assert rows == order[position : position + 2 * len(rows) : 2]
            position += 2 * len(rows)
    assert position > 200


def test_numbers_of_rollouts_are_the_budgets(world: World) -> None:
    for batch in world.loops.batches:
        counts = tu.get(batch, "__rollout_n__", [4] * len(batch))
        assert counts == Ragged.allocate(None, counts, 4 * len(batch), None)
    assert any(len(set(tu.get(batch, "__rollout_n__", [4]))) > 1 for batch in world.loops.batches)


def test_what_is_trained_on_and_its_advantages(world: World) -> None:
    steps, updates = account(world), iter(world.worker.updates)
    trained = 0
    for step in steps:
        update = next(updates)
        found = {
            (row, tuple(tokens.tolist())): (advantages, entropies)
            for row, tokens, advantages, entropies, padding in zip(
                *(update[name] for name in ("index", "responses", "advantages", "entropy", "padding")), strict=True
            )
            if not padding
        }
        expected = [
            (row, tuple(tokens), advantage)
            for row, group in step.kept
            for (tokens, _), advantage in zip(group, normalized([reward for _, reward in group]), strict=True)
        ]
        assert sorted(found) == sorted((row, tokens) for row, tokens, _ in expected)
        padding = [row for row, pad in zip(update["advantages"], update["padding"], strict=True) if pad]
        assert not any(row.any() for row in padding)
        for row, tokens, advantage in expected:
            advantages, entropies = found[row, tokens]
            np.testing.assert_allclose(advantages, advantage * np.where(entropies > 0.5, 2.0, 1.0), rtol=1e-5)
        trained += len(expected)
    costs = world.trainer.session.costs
    assert (costs.rollouts_total, costs.rollouts_trained) == (len(world.judge.seen), trained)
    assert costs.tokens_generated == sum(len(tokens) for _, tokens, _ in world.judge.seen)


def normalized(rewards: list[float]) -> np.ndarray:
    """verl's advantages of a group; that of a single rollout is its reward."""
    r = np.array(rewards)
    return (r - r.mean()) / (r.std(ddof=1) + 1e-6) if len(r) > 1 else r
