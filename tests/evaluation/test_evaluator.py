"""Answers sampled and judged, on fakes that answer sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prepo_cli.data.prompts import Prompts
from prepo_cli.evaluation import evaluator as module
from prepo_cli.evaluation.evaluator import Evaluator, Sampling
from prepo_cli.evaluation.results import Evaluation
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RewardConfig
from strategies.types import derive_seed
from tests.evaluation.answering import CUT, CharacterRenderer, Characters, SumEngine, Sums

BOXED = RewardConfig(functions=["boxed"])
SAMPLING = Sampling(k=8, temperature=0.7, top_p=0.9, max_completion_length=33, seed=5)


def answered(
    engine: SumEngine,
    progress: Callable[[int], Any] | None = None,
    rewards: RewardConfig = BOXED,
    longest: int = 99,
) -> Evaluation:
    prompts = Prompts(Sums(30), CharacterRenderer(), longest)
    with Judge(rewards) as judge:
        return Evaluator(engine, Characters(), prompts, judge, SAMPLING).evaluate(progress)


def test_every_prompt_is_answered_k_times_by_its_own_seeds() -> None:
    engine = SumEngine()
    evaluation = answered(engine)
    requests = [request for call in engine.calls for request in call]
    assert len(requests) == 30
    for row, request in enumerate(requests):
        assert list(request.seeds) == [derive_seed(5, "eval", f"sum-{row}", j) for j in range(8)]
        assert (request.temperature, request.top_p, request.max_tokens) == (0.7, 0.9, 33)
    draws_PK = np.array([[np.random.default_rng(seed).random() for seed in request.seeds] for request in requests])
    np.testing.assert_array_equal(evaluation.correct_PK, draws_PK < 0.6)
    np.testing.assert_array_equal(evaluation.truncated_PK, draws_PK > 0.9)
    assert evaluation.prompt_ids == [f"sum-{row}" for row in range(30)]
    for row in range(30):
        for j in range(8):
            right, cut = evaluation.correct_PK[row, j], evaluation.truncated_PK[row, j]
            answer = None if cut else str(row + row * row + (not right))
            assert evaluation.answers_PK[row][j] == answer
            assert evaluation.completions[row][j] == (CUT if cut else f"\\boxed{{{answer}}}")
            assert evaluation.lengths_PK[row, j] == len(evaluation.completions[row][j]) + (not cut)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answered(SumEngine())
    monkeypatch.setattr(module, "ROLLOUTS_AT_ONCE", 24)
    engine = SumEngine()
    parts = answered(engine)
    assert [len(call) for call in engine.calls] == [3] * 10
    assert parts.prompt_ids == whole.prompt_ids
    assert parts.completions == whole.completions
    np.testing.assert_array_equal(parts.rewards_PK, whole.rewards_PK)
    np.testing.assert_array_equal(parts.by_function["boxed"], whole.by_function["boxed"])


def test_long_prompts_are_left_out_counted_and_reported_to_progress() -> None:
    heard: list[int] = []
    evaluation = answered(SumEngine(), heard.append, longest=4)
    kept = [row for row in range(30) if len(f"{row}+{row * row}") <= 4]
    assert evaluation.prompt_ids == [f"sum-{row}" for row in kept]
    assert evaluation.left_out == 30 - len(kept)
    assert sum(heard) == 30 * 8
    nothing = answered(SumEngine(), longest=1)
    assert (nothing.left_out, nothing.correct_PK.shape) == (30, (0, 8))


def test_before_and_after_share_their_random_numbers() -> None:
    before, after = answered(SumEngine(skill=0.3)), answered(SumEngine(skill=0.6))
    assert (after.correct_PK >= before.correct_PK).all()
    assert after.correct_PK.sum() > before.correct_PK.sum()


def test_prompts_are_rendered_once_for_all_evaluations() -> None:
    renderer = CharacterRenderer()
    with Judge(BOXED) as judge:
        evaluator = Evaluator(SumEngine(), Characters(), Prompts(Sums(30), renderer, 99), judge, SAMPLING)
        first, second = evaluator.evaluate(), evaluator.evaluate()
    assert sorted(renderer.asked) == sorted(Sums(30).question(row) for row in range(30))
    np.testing.assert_array_equal(first.correct_PK, second.correct_PK)


def test_other_reward_functions_change_the_reward_and_not_what_is_correct() -> None:
    alone = answered(SumEngine())
    rewards = RewardConfig(functions=["tests.training.rewards:short", "boxed"], weights=[1.0, 0.25])
    both = answered(SumEngine(), rewards=rewards)
    np.testing.assert_array_equal(both.correct_PK, alone.correct_PK)
    np.testing.assert_array_equal(both.by_function["boxed"], alone.by_function["boxed"])
    np.testing.assert_array_equal(both.by_function["tests.training.rewards:short"], np.ones((30, 8)))
    np.testing.assert_array_equal(both.rewards_PK, 1 + 0.25 * alone.correct_PK)
