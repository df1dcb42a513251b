"""Functions written for TRL work as they are: what they are called with, and when they need gold answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.data.loading import load_prompts
from prepo_cli.errors import UsageError
from prepo_cli.rewards.judge import Judge
from prepo_cli.rewards.messages import Prompt
from prepo_cli.sections import RewardConfig

HERE = "tests.rewards.trl_style"
WORKING = ["by_tokens", "by_reference", "only_named", "of_task", "as_given", "logs", "asynchronous", "scaled"]
TEXT, CHAT = "2 + 2?", [{"role": "system", "content": "Add."}, {"role": "user", "content": "2 + 2?"}]


def named(*functions: str) -> list[str]:
    return [name if name in ("math", "exact", "boxed") else f"{HERE}:{name}" for name in functions]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(RewardConfig(functions=named(*WORKING), workers=1)) as judge:
        yield judge


def values(
    judge: Judge, prompts: Sequence[Prompt], completions: Sequence[str], **columns: Any
) -> dict[str, list[float]]:
    found = judge(prompts, completions, columns).by_function
    return {name.rpartition(":")[2]: list(scores) for name, scores in found.items()}


def test_what_functions_of_trl_are_called_with(judge: Judge) -> None:
    found = values(
        judge,
        [TEXT, TEXT],
        [r"\boxed{4}", "five"],
        ground_truth=["4", "4"],
        level=[10, 20],
        task=["math", "code"],
        prompt=["raw", "raw"],
        completion=["raw", "raw"],
        completion_ids=[[5, 6, 7], [8]],
    )
    assert math.isnan(found.pop("of_task")[1])
    assert found == {
        "by_tokens": [3.0, 1.0],
        "by_reference": [1.0, 0.0],
        "only_named": [19.0, 24.0],
        "as_given": [1.0, 1.0],
        "logs": [1.0, 1.0],
        "asynchronous": [9.0, 4.0],
        "scaled": [4.5, 2.0],
    }
    assert not judge.needs_answers


def test_token_ids_go_only_to_functions_that_name_them() -> None:
    with Judge(RewardConfig(functions=named("by_tokens", "passed"), workers=1)) as judge:
        columns = {"completion_ids": [[5, 6, 7]], "level": [10]}
        assert values(judge, [TEXT], ["x"], **columns) == {"by_tokens": [3.0], "passed": [3.0]}


def test_chat_prompts_come_with_chat_completions() -> None:
    with Judge(RewardConfig(functions=named("chat", "as_given", "text_of_one", "exact"), workers=1)) as judge:
        found = values(judge, [CHAT, CHAT], ["four", "four"], answer=["four", "4"])
        assert found == {"chat": [0, 0], "as_given": [2, 2], "text_of_one": [1, 1], "exact": [1, 0]}
    with Judge(RewardConfig(functions=named("chat"), workers=1)) as judge:
        assert values(judge, [CHAT], ["<think>so</think>"]) == {"chat": [1.0]}


def test_what_a_function_requires_and_nothing_provides_is_named() -> None:
    config = RewardConfig(functions=named("follows_training"), workers=1)
    with Judge(config) as judge, pytest.raises(UsageError, match="requires 'trainer_state', but the dataset") as error:
        values(judge, [TEXT], ["four"], level=[1])
    assert str(error.value).endswith("available: prompts, completions, level")


@pytest.mark.parametrize(
    ("functions", "needed"),
    [(["math"], True), (["gold"], True), (["logs", "boxed"], True), (["scaled"], False), (["chat", "logs"], False)],
)
def test_gold_answers_are_needed_by_those_that_use_them(functions: list[str], needed: bool) -> None:
    with Judge(RewardConfig(functions=named(*functions), workers=1)) as judge:
        assert judge.needs_answers is needed


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_answers_that_are_not_needed_may_be_missing_or_be_anything(tmp_path: Path) -> None:
    bare = load_prompts(written(tmp_path / "bare.jsonl", {"prompt": "x", "level": 3}), need_answer=False)
    assert (bare.answer(0), bare.fields(0)) == (None, {"prompt": "x", "level": 3})
    rows: list[dict[str, Any]] = [{"prompt": "x", "answer": "so 4 #### 4"}, {"prompt": "y", "answer": None}]
    some = load_prompts(written(tmp_path / "some.jsonl", *rows), need_answer=False)
    assert ([some.answer(row) for row in (0, 1)], some.fields(0)["answer"]) == (["4", None], "4")
    tests = load_prompts(written(tmp_path / "t.jsonl", {"prompt": "x", "answer": {"in": "1"}}), need_answer=False)
    assert tests.fields(0)["answer"] == {"in": "1"}
    with pytest.raises(UsageError, match="the answer is missing"):
        load_prompts(str(tmp_path / "some.jsonl"))
    with pytest.raises(UsageError, match="the answer is missing"):
        load_prompts(str(tmp_path / "some.jsonl"), need_answer=False, answer_column="answer")


def test_prompts_are_given_as_the_dataset_has_them(tmp_path: Path) -> None:
    chats = load_prompts(written(tmp_path / "chat.jsonl", {"prompt": CHAT, "answer": "4"}))
    assert (chats.given(0), chats.question(0)) == (CHAT, TEXT)
    assert load_prompts(written(tmp_path / "text.jsonl", {"question": TEXT, "answer": "4"})).given(0) == TEXT
