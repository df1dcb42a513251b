from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from prepo_cli.evaluation import evaluate as module
from prepo_cli.evaluation.evaluate import Evaluation, evaluate, pass_ks
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RewardConfig
from prepo_cli.statistics import pass_at_k
from strategies.types import derive_seed
from tests.evaluation.answering import Characters, SumEngine, Sums, render

OPTIONS: dict[str, Any] = {
    "k": 8,
    "temperature": 0.7,
    "top_p": 0.9,
    "max_completion_length": 33,
    "max_prompt_length": None,
    "seed": 5,
}


def answered(engine: SumEngine, size: int = 30, **options: Any) -> Evaluation:
    with Judge(RewardConfig()) as judge:
        return evaluate(engine, Characters(), Sums(size), render, judge, **{**OPTIONS, **options})


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
            assert evaluation.completions[row][j] == ("hm" if cut else f"\\boxed{{{answer}}}")
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


def test_long_prompts_are_left_out_counted_and_reported_to_progress() -> None:
    heard: list[int] = []
    evaluation = answered(SumEngine(), max_prompt_length=4, progress=heard.append)
    kept = [row for row in range(30) if len(f"{row}+{row * row}") <= 4]
    assert evaluation.prompt_ids == [f"sum-{row}" for row in kept]
    assert evaluation.left_out == 30 - len(kept)
    assert sum(heard) == 30 * 8
    nothing = answered(SumEngine(), max_prompt_length=1)
    assert (nothing.left_out, nothing.correct_PK.shape) == (30, (0, 8))


def test_summary() -> None:
    evaluation = answered(SumEngine())
    summary = json.loads(json.dumps(evaluation.summary(seed=1)))
    avg = summary["avg@8"]
    assert avg["value"] == pytest.approx(evaluation.correct_PK.mean())
    assert avg["low"] < avg["value"] < avg["high"]
    assert [name for name in summary if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4", "pass@8"]
    assert summary["pass@1"] == pytest.approx(avg)
    expected = pass_at_k(8, evaluation.correct_PK.sum(axis=1), 4).mean()
    assert summary["pass@4"]["value"] == pytest.approx(expected)
    assert summary["maj@8"]["value"] > avg["value"], "the right answer is the most frequent one"
    assert summary["truncated"] == pytest.approx(evaluation.truncated_PK.mean())
    assert summary["mean_length"] == pytest.approx(evaluation.lengths_PK.mean())
    assert (summary["prompts"], summary["k"]) == (30, 8)
    assert {source: row["prompts"] for source, row in summary["by_source"].items()} == {"easy": 20, "hard": 10}
    hard = evaluation.correct_PK[::3].mean()
    assert summary["by_source"]["hard"]["avg@8"]["value"] == pytest.approx(hard)


def test_before_and_after_share_their_random_numbers() -> None:
    before, after = answered(SumEngine(skill=0.3)), answered(SumEngine(skill=0.6))
    assert (after.correct_PK >= before.correct_PK).all()
    assert after.correct_PK.sum() > before.correct_PK.sum()


def test_pass_ks() -> None:
    assert [list(pass_ks(k)) for k in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]
