"""Per-prompt statistics against plain dictionaries, and every state against another training set's."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import registry
from strategies.base import State, Strategy
from strategies.history import PromptHistory, indices
from tests.fakes import make_group, make_prompts, make_run

PROMPTS = make_prompts(5)
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=8)
ROUNDS = st.lists(st.lists(st.tuples(st.integers(0, 4), REWARDS), max_size=6), max_size=5)


def per_prompt(cls: type[Strategy]) -> bool:
    """Whether the strategy keeps something for each prompt."""
    return has_rows(registry.create(cls.slot, cls.name, make_run(48)).state_dict(), 48)


def has_rows(state: State, rows: int) -> bool:
    return any(
        has_rows(value, rows) if isinstance(value, dict) else np.shape(value) == (rows,) for value in state.values()
    )


@given(ROUNDS)
def test_history_equals_dictionaries_though_a_prompt_stands_in_a_round_twice(
    rounds: list[list[tuple[int, list[float]]]],
) -> None:
    history, seen = PromptHistory(5), defaultdict(list)
    for groups in rounds:
        history.add([make_group(PROMPTS[index], rewards) for index, rewards in groups])
        for index, rewards in groups:
            seen[index] += rewards
    for index in range(5):
        rewards = seen[index]
        assert history.rollouts_P[index] == len(rewards)
        assert history.correct_P[index] == rewards.count(1.0)
        assert history.mean_reward()[index] == pytest.approx(np.mean(rewards) if rewards else 0.0)
        expected = rewards.count(1.0) / len(rewards) if rewards else 0.5
        assert history.pass_rate(np.array([index]))[0] == pytest.approx(expected)
        smoothed = (rewards.count(1.0) + 1) / (len(rewards) + 2)
        assert history.pass_rate(np.array([index]), prior=1.0)[0] == pytest.approx(smoothed)


def test_a_round_without_groups_changes_nothing() -> None:
    history = PromptHistory(3)
    history.add([])
    assert indices([]).shape == (0,)
    assert not history.rollouts_P.any()


def test_a_saved_state_is_a_copy() -> None:
    history = PromptHistory(5)
    saved = history.state_dict()
    history.add([make_group(PROMPTS[2], [1.0])])
    assert not saved["rollouts"].any()
    restored = PromptHistory(5)
    restored.load_state_dict(saved)
    restored.add([make_group(PROMPTS[1], [1.0])])
    assert not saved["rollouts"].any()


@pytest.mark.parametrize("cls", [pytest.param(c, id=f"{c.slot}-{c.name}") for c in registry.listed() if per_prompt(c)])
def test_the_state_of_another_training_set_is_refused(cls: type[Strategy]) -> None:
    state = registry.create(cls.slot, cls.name, make_run(47)).state_dict()
    with pytest.raises(ValueError, match="the checkpoint has state for 47 prompts, this run has 48"):
        registry.create(cls.slot, cls.name, make_run(48)).load_state_dict(state)
