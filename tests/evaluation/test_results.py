"""What an evaluation's summary says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from prepo_cli.evaluation.results import Evaluation, grouping, join, pass_ks
from prepo_cli.statistics import pass_at_k


def made(sources: list[str | None], k: int = 4, **changes: Any) -> Evaluation:
    """An evaluation of random flags, each prompt's right answers alike and the wrong ones all different."""
    rng = np.random.default_rng(len(sources))
    correct_PK = rng.random((len(sources), k)) < 0.6
    fields: dict[str, Any] = {
        "prompt_ids": [f"p{row}" for row in range(len(sources))],
        "sources": sources,
        "correct_PK": correct_PK,
        "rewards_PK": correct_PK + 0.5,
        "by_function": {"math": correct_PK.astype(float)},
        "answers_PK": [["right" if flag else f"wrong {j}" for j, flag in enumerate(flags)] for flags in correct_PK],
        "lengths_PK": rng.integers(1, 50, correct_PK.shape),
        "truncated_PK": rng.random(correct_PK.shape) < 0.1,
        "completions": [["text"] * k for _ in sources],
        "prompts": [f"prompt {row}" for row in range(len(sources))],
        "golds": [f"gold {row}" for row in range(len(sources))],
        "seconds": 2.0,
    }
    return Evaluation(**(fields | changes))


def test_summary() -> None:
    evaluation = made(["easy", "easy", "hard"] * 10, k=8, left_out=3, timeouts=2, errors=1)
    summary = json.loads(json.dumps(evaluation.summary(seed=1)))
    avg = summary["avg@8"]
    assert avg["value"] == pytest.approx(evaluation.correct_PK.mean())
    assert avg["low"] < avg["value"] < avg["high"]
    assert [name for name in summary if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4", "pass@8"]
    assert summary["pass@1"] == pytest.approx(avg)
    expected = pass_at_k(8, evaluation.correct_PK.sum(axis=1), 4).mean()
    assert summary["pass@4"]["value"] == pytest.approx(expected)
    assert summary["maj@8"]["value"] > avg["value"], "the right answer is the most frequent one"
    assert summary["reward"] == pytest.approx(evaluation.correct_PK.mean() + 0.5)
    assert summary["truncated"] == pytest.approx(evaluation.truncated_PK.mean())
    assert summary["mean_length"] == pytest.approx(evaluation.lengths_PK.mean())
    assert (summary["prompts"], summary["k"]) == (30, 8)
    assert (summary["left_out"], summary["timeouts"], summary["errors"]) == (3, 2, 1)
    assert {source: row["prompts"] for source, row in summary["by_source"].items()} == {"easy": 20, "hard": 10}
    hard = evaluation.correct_PK[2::3].mean()
    assert summary["by_source"]["hard"]["avg@8"]["value"] == pytest.approx(hard)


def test_rewards_are_shown_by_function_where_there_are_several() -> None:
    assert made([None] * 3).summary()["rewards"] == {}
    math_PK, style_PK = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, np.nan], [np.nan, 0.1]])
    never_PK = np.full((2, 2), np.nan)
    evaluation = made([None] * 2, k=2, by_function={"math": math_PK, "my:style": style_PK, "my:never": never_PK})
    rewards = json.loads(json.dumps(evaluation.summary()))["rewards"]
    assert rewards["math"] == pytest.approx({"mean": 0.5, "std": (1 / 3) ** 0.5})
    assert rewards["my:style"] == pytest.approx({"mean": 0.3, "std": 0.08**0.5})
    assert rewards["my:never"] == {}


@pytest.mark.parametrize(
    ("sources", "shown"),
    [
        (["a", "b", "a", "b"], {"a": [0, 2], "b": [1, 3]}),
        (["a", "a", "a", "b"], {"a": [0, 1, 2], "b": [3]}),
        (["a", "a", None, "a"], {"a": [0, 1, 3]}),
        (["a", "a", "a"], {}),
        (["a", "b", "c", "d"], {}),
        (["a", "b", "b"], {}),
        ([None, None, None, "a", "b"], {}),
        ([None, None], {}),
        ([], {}),
    ],
)
def test_sources_make_a_table_only_where_they_group_the_prompts(sources: list[str | None], shown: Any) -> None:
    assert grouping(sources) == shown
    if sources:
        assert set(made(sources).summary()["by_source"]) == set(shown)


def test_hundreds_of_sources_make_no_table() -> None:
    assert len(grouping([f"s{row // 5}" for row in range(500)])) == 100
    assert grouping([f"s{row // 5}" for row in range(505)]) == {}


def test_joining_parts_is_the_evaluation_of_all_prompts() -> None:
    whole = made(["a", "b"] * 6, timeouts=5, errors=3, left_out=2)
    parts = [
        Evaluation(
            prompt_ids=whole.prompt_ids[a:b],
            sources=whole.sources[a:b],
            correct_PK=whole.correct_PK[a:b],
            rewards_PK=whole.rewards_PK[a:b],
            by_function={"math": whole.by_function["math"][a:b]},
            answers_PK=whole.answers_PK[a:b],
            lengths_PK=whole.lengths_PK[a:b],
            truncated_PK=whole.truncated_PK[a:b],
            completions=whole.completions[a:b],
            prompts=whole.prompts[a:b],
            golds=whole.golds[a:b],
            seconds=1.0,
            timeouts=5 * (a == 0),
            errors=3 * (a == 0),
            left_out=2 * (a == 0),
        )
        for a, b in ((0, 5), (5, 5), (5, 12))
    ]
    joined = join(parts, 4)
    assert joined.summary() == whole.summary() | {"seconds": 3.0}
    texts = (whole.completions, whole.prompts, whole.golds)
    assert (joined.completions, joined.prompts, joined.golds) == texts
    bare = join(parts, 4, keep_texts=False)
    assert (bare.completions, bare.prompts, bare.golds) == ([], [], [])
    assert join([], 4).correct_PK.shape == (0, 4)


def test_without_prompts_there_is_nothing_to_sum_up() -> None:
    with pytest.raises(ValueError, match="needs finite values"):
        made([], left_out=7).summary()


def test_pass_ks() -> None:
    assert [list(pass_ks(k)) for k in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]
