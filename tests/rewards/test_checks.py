"""Comparisons begun while completions are still being generated: the same outcomes, each made once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli.engines.base import Finished, Request, Rollout
from prepo_cli.evaluation.reading import Reader
from prepo_cli.rewards.checks import MathChecks
from prepo_cli.rewards.judge import Judge
from prepo_cli.rewards.pool import Lost, StartError, WorkerPool
from prepo_cli.rewards.verify import Job
from prepo_cli.rewards.worker import Role
from prepo_cli.sections import RewardConfig

ANSWERS = ["0.5", ["7", "1/2"], None, r"\sqrt{2}"]
COMPLETIONS = [r"\boxed{\frac{1}{2}}", r"\boxed{yes}", r"\boxed{1}", "", "0.5", r"so \boxed{\sqrt{2}}"]


class Counting(WorkerPool):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(Role({}, 4 * 2**30), 2, "a test")
        self.asked: list[str] = []

    def run(self, calls: Sequence[Any], *args: Any, **options: Any) -> Any:
        self.asked += [call.payload for call in calls]
        return super().run(calls, *args, **options)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setattr("prepo_cli.rewards.forkserver.MODULE", "tests.rewards.hostile")
    pool = Counting()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(RewardConfig(functions=["math", "exact"], workers=1)) as judge:
        yield judge


def job(answer: str) -> Job:
    return Job(("x",), answer, "boxed")


def test_a_comparison_is_made_once_whether_it_was_begun_or_not(pool: Counting) -> None:
    checks = MathChecks(pool, 20.0)
    for answer in ("yes", "no", "yes"):
        checks.begin(job(answer))
    found = checks.outcomes([job("no"), job("yes"), job("yes, late")])
    verdicts = {each.answer: outcome["values"][0] for each, outcome in found.items() if not isinstance(outcome, Lost)}
    assert verdicts == {"yes": 1.0, "no": 0.0, "yes, late": 1.0}
    assert len(pool.asked) == 3
    checks.outcomes([job("yes")])
    assert len(pool.asked) == 4  # nothing is kept
    checks.close()


def test_what_is_lost_beside_generation_is_tried_once_more(pool: Counting) -> None:
    checks = MathChecks(pool, 0.5)
    checks.begin(job("hang"))
    checks.begin(job("die"))
    while len(checks._found) < 2:
        time.sleep(0.01)
    found = checks.outcomes([job("hang"), job("die")])
    kinds = {each.answer: outcome.kind for each, outcome in found.items() if isinstance(outcome, Lost)}
    assert kinds == {"hang": "timeout", "die": "died"}
    assert len(pool.asked) == 4
    checks.close()


def test_closing_does_not_wait_for_what_hangs(pool: Counting) -> None:
    checks = MathChecks(pool, 3600.0)
    checks.begin(job("hang"))
    while not pool._workers:
        time.sleep(0.01)
    checks.close()
    assert not pool._workers
    checks.begin(job("yes"))
    assert checks.outcomes([job("yes")])[job("yes")] == {"values": [1.0]}
    checks.close()


def test_workers_that_do_not_start_are_reported_when_the_outcome_is_needed(
    pool: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prepo_cli.rewards.forkserver.MODULE", "no_such_module")
    checks = MathChecks(pool, 1.0)
    checks.begin(job("yes"))
    with pytest.raises(StartError):
        checks.outcomes([job("yes")])
    checks.close()


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(COMPLETIONS), st.sampled_from(ANSWERS)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_beginning_in_any_order_changes_no_score(judge: Judge, rows: list[tuple[str, Any]], random: Any) -> None:
    prompts, completions, answers = ["q"] * len(rows), [text for text, _ in rows], [answer for _, answer in rows]
    plain = judge(prompts, completions, {"answer": answers})
    for text, answer in random.sample(rows, random.randint(0, len(rows))):
        judge.begin(text, answer)
    begun = judge(prompts, completions, {"answer": answers})
    assert begun.rewards_N.tolist() == plain.rewards_N.tolist()
    assert begun.correct_N.tolist() == plain.correct_N.tolist()
    assert str(begun.by_function) == str(plain.by_function)
    assert (begun.timeouts, begun.errors) == (plain.timeouts, plain.errors) == (0, 0)


def test_the_first_completion_is_compared_while_the_engine_generates(judge: Judge) -> None:
    def generate(requests: Sequence[Request], finished: Finished) -> list[list[Rollout]]:
        texts = [r"\boxed{\frac{2}{4}}", r"\boxed{3}"]
        rollouts = [Rollout([ord(c) for c in text], None, None, False) for text in texts]  # type: ignore[arg-type]
        finished(0, 0, rollouts[0])
        while not judge._checks._found:  # the engine goes on until the outcome is there
            time.sleep(0.01)
        return [rollouts]

    reader = Reader(lambda ids: "".join(map(chr, ids)), judge, ["1/2"])
    groups = generate([Request([1], [0, 1], 1.0, 99)], reader)
    texts = reader.texts(groups)
    assert texts == [[r"\boxed{\frac{2}{4}}", r"\boxed{3}"]]
    assert judge(["q", "q"], texts[0], {"answer": ["1/2"] * 2}).rewards_N.tolist() == [1.0, 0.0]
