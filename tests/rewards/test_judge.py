from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prepo_cli.errors import RunError, UsageError
from prepo_cli.rewards.judge import Judge, columns_of
from prepo_cli.rewards.pool import Lost, WorkerPool
from prepo_cli.sections import RewardConfig

OWN = """
def length(prompts, completions, **columns):
    return [len(c) / 10 for c in completions]
def sometimes(prompts, completions, answer, **columns):
    return [None if c == "skip" else 1.0 for c in completions]
def too_few(prompts, completions, **columns):
    return [1.0]
def broken(prompts, completions, **columns):
    return [float("nan"), float("inf"), None][: len(completions)]
def fails(prompts, completions, **columns):
    raise KeyError("gold")
def sees(prompts, completions, **columns):
    assert isinstance(completions, list) and all(len(v) == len(completions) for v in columns.values())
    return [float(columns["level"][i]) + (prompts[i] == "q1") for i in range(len(prompts))]
number = 7
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def score(functions: Sequence[str], completions: Sequence[str], answers: Sequence[Any], **options: Any) -> Any:
    config = RewardConfig(functions=list(functions), workers=1, **options)
    with Judge(config) as judge:
        return judge([f"q{i}" for i in range(len(completions))], completions, {"answer": answers})


def test_exact_and_boxed() -> None:
    completions = [" 12 ", r"so \boxed{1,200.}", r"\boxed{b, a}", "12", r"\boxed{}"]
    answers = ["12", 1200, ["a", "b"], None, "12"]
    scores = score(["exact", "boxed"], completions, answers)
    np.testing.assert_array_equal(scores.by_function["exact"], [1, 0, 0, np.nan, 0])
    np.testing.assert_array_equal(scores.by_function["boxed"], [0, 1, 0, np.nan, 0])
    np.testing.assert_array_equal(scores.rewards_N, [1, 1, 0, 0, 0])
    assert score(["boxed"], [r"\boxed{a, b}"], [["a", "b"]]).rewards_N[0] == 1


def test_math_through_workers() -> None:
    completions = [r"\boxed{12}", r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}}", r"\boxed{1}", "", r"\boxed{3}"]
    scores = score(["math"], completions, ["12", "0.5", ["7", "1/2"], "2", "1", None])
    np.testing.assert_array_equal(scores.by_function["math"], [1, 1, 1, 0, 0, np.nan])
    np.testing.assert_array_equal(scores.rewards_N, [1, 1, 1, 0, 0, 0])
    assert (scores.timeouts, scores.errors) == (0, 0)


def test_hostile_answers_cost_their_completions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prepo_cli.rewards.forkserver.MODULE", "tests.rewards.hostile")
    completions = [r"\boxed{yes}", r"\boxed{hang}", r"\boxed{die}", r"\boxed{hang}", r"\boxed{yes}", r"\boxed{no}"]
    scores = score(["math"], completions, ["0.5"] * 6, timeout_s=0.5)
    np.testing.assert_array_equal(scores.rewards_N, [1, 0, 0, 0, 1, 0])
    assert (scores.timeouts, scores.errors) == (2, 1)


def test_plain_integers_start_no_process() -> None:
    with Judge(RewardConfig(functions=["math"])) as judge:
        completions = [r"\boxed{1}", r"\boxed{2}", "a text without a box that is too long to be a mere number", ""]
        scores = judge(["q"] * 4, completions, {"answer": [1, 1, 1, 1]})
        np.testing.assert_array_equal(scores.rewards_N, [1, 0, 0, 0])
        assert not judge._pool._workers


def test_own_functions_and_weights() -> None:
    functions = ["own_rewards:length", "own_rewards:sometimes"]
    scores = score(functions, ["skip", "12345"], ["x", "x"], weights=[2.0, -1.0])
    np.testing.assert_allclose(scores.by_function["own_rewards:length"], [0.4, 0.5])
    np.testing.assert_array_equal(scores.by_function["own_rewards:sometimes"], [np.nan, 1.0])
    np.testing.assert_allclose(scores.rewards_N, [0.8, 0.0])
    assert scores.rewards_N.dtype == np.float64


def test_columns_reach_the_function() -> None:
    with Judge(RewardConfig(functions=["own_rewards:sees"])) as judge:
        scores = judge(("q0", "q1"), ("a", "b"), {"answer": ("x", "y"), "level": (3, 4)})
    np.testing.assert_array_equal(scores.rewards_N, [3, 5])


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    scores = score(["own_rewards:broken", "own_rewards:length"], ["a", "b", "c"], ["x"] * 3, on_error="skip")
    np.testing.assert_allclose(scores.rewards_N, [0.1, 0.1, 0.1])
    assert scores.errors == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mth", "did you mean 'math'"),
        ("nowhere.at_all:f", "module 'nowhere' was not found in .* or on PYTHONPATH; run prepo from its folder"),
        ("nowhere/at_all.py:f", "nowhere/at_all.py was not found in .*; run prepo from the folder that its path is"),
        ("own_rewards.py", "unknown reward 'own_rewards.py'; name its function: own_rewards.py:function"),
        ("own_rewards:lenght", "own_rewards.py\\) has no 'lenght'"),
        ("own_rewards:number", "is of type int; name a function"),
        ("leaves:f", "fails to import at .*leaves.py:2: SystemExit: 0$"),
    ],
)
def test_names_are_checked_before_any_work(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Judge(RewardConfig(functions=[name]))
    assert "\n" not in str(error.value)


def test_faults_of_own_functions_name_them() -> None:
    with pytest.raises(UsageError, match="'own_rewards:too_few' returned 1 values for 2 completions"):
        score(["own_rewards:too_few"], ["a", "b"], ["x", "x"])
    with pytest.raises(RunError, match=r"'own_rewards:fails' failed at .*own_rewards.py:11: KeyError: 'gold';"):
        score(["own_rewards:fails"], ["a"], ["x"])


def test_math_without_gold_answers() -> None:
    with Judge(RewardConfig()) as judge, pytest.raises(UsageError, match="--answer-column"):
        judge(["q"], [r"\boxed{1}"], {})


def test_nothing_to_judge() -> None:
    scores = score(["math", "own_rewards:sometimes"], [], [])
    assert scores.rewards_N.shape == scores.by_function["math"].shape == scores.correct_N.shape == (0,)


def test_a_reward_named_twice() -> None:
    with pytest.raises(UsageError, match="lists a function twice"):
        Judge(RewardConfig(functions=["math", "math"]))


def test_columns_of_uneven_rows() -> None:
    assert columns_of([{"a": 1}, {"b": 2}]) == {"a": [1, None], "b": [None, 2]}
    assert columns_of([]) == {}


def test_that_most_checks_take_too_long_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = 0

    def answered(pool: WorkerPool, calls: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        return ((i, Lost("timeout", "") if i < late else {"values": [1.0]}) for i in range(len(calls)))

    monkeypatch.setattr(WorkerPool, "run", answered)
    completions = [f"\\boxed{{\\frac{{{i}}}{{x}}}}" for i in range(20)]
    with Judge(RewardConfig()) as judge:
        for late, told in ((7, 0), (10, 0), (11, 1), (20, 0)):
            scores = judge([""] * 20, completions, {"answer": ["\\frac{99}{x}"] * 20})
            assert (scores.timeouts, scores.correct_N.sum()) == (late, 20 - late)
            assert capsys.readouterr().err.count("took longer than 5 s to check (rewards.timeout_s)") == told
