"""The verdicts themselves, by the real math-verify, in this process."""

from __future__ import annotations

import logging
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from math_verify import parse, verify

from prepo_cli.rewards.verify import Job, check, prepare, quick_verdict

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def verdict(golds: tuple[str, ...], completion: str) -> bool:
    prepared = prepare(golds, completion)
    return check(prepared) if isinstance(prepared, Job) else prepared


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("12", r"so \boxed{12}", True),
        ("12", r"so \boxed{13}", False),
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"$\frac{1}{2}$", r"\boxed{1/2}", True),
        ("27.0", r"\boxed{27}", True),
        ("1234", r"\boxed{1,234}", True),
        ("4", r"\boxed{x = 4}", True),
        ("x^2 - 1", r"\boxed{(x-1)(x+1)}", True),
        ("x^2 - 1", r"\boxed{x^2 + 1}", False),
        ("1,3", r"\boxed{3, 1}", True),
        ("1,3", r"\boxed{1}", False),
        ("$69$,$84$", r"\boxed{84, 69}", True),
        ("3", r"\boxed{3, 4}", False),
        ("3", r"\boxed{3 \text{ or } 4}", False),
        ("3", r"\boxed{3} or \boxed{4}", False),
        ("4", r"\boxed{3} or \boxed{4}", True),
        ("3", r"$\boxed{3}$ and $\boxed{4}$", False),
        ("3", r"The answer is 3, that is \boxed{4}", False),
        ("3", r"The answer is 3, that is \boxed{", False),
        ("42", "The answer is 42.", True),
        ("42", "After a long calculation with many steps in it, the final answer is $42$.", True),
        ("42", "42", True),
        ("17", "First 5 + 7 = 12, then we add 5 to that and so we have 12 + 5 = 17", False),
        ("3", r"\boxed{}", False),
        ("3", "", False),
    ],
)
def test_verdicts(gold: str, completion: str, right: bool) -> None:
    assert verdict((gold,), completion) is right


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (r"\boxed{1}", True),
        (r"\boxed{x}", True),
        (r"\boxed{2}", False),
        (r"\boxed{1, x}", True),
        (r"\boxed{(1, x)}", True),
        (r"\boxed{\{x, 1\}}", True),
        (r"\boxed{1, y}", False),
    ],
)
def test_several_golds_match_one_or_all_together(completion: str, right: bool) -> None:
    assert verdict(("1", "$x$"), completion) is right


def real(golds: tuple[str, ...], content: str) -> bool:
    """math-verify without our short cut."""
    expected = [e for gold in golds for e in parse(f"\\boxed{{{gold}}}", parsing_timeout=None)]
    return verify(expected, parse(f"\\boxed{{{content}}}", parsing_timeout=None), timeout_seconds=None)


small = st.integers(-3, 3).map(str)
plain = st.one_of(st.integers(-12, 12), st.integers(-(10**12) + 1, 10**12 - 1))
written = st.tuples(st.sampled_from(["", "0", "00"]), plain).map(
    lambda pair: ("-" if pair[1] < 0 else "") + (pair[0] + str(abs(pair[1])))[-12:]
)


@settings(max_examples=150, deadline=None)
@given(
    gold=st.tuples(written, st.sampled_from(["", ".0", ".00"])).map("".join),
    answer=written,
    delta=st.sampled_from([None, 0, 1, -1]),
)
@example(gold="-0", answer="0", delta=None)
@example(gold="999999999999.0", answer="999999999998", delta=None)
def test_the_short_cut_is_math_verify(gold: str, answer: str, delta: int | None) -> None:
    value = int(gold.split(".")[0])
    answer = answer if delta is None else str(value + delta)
    quick = quick_verdict((gold,), answer)
    if len(answer.lstrip("-")) <= 12:
        assert quick is not None
    if quick is not None:
        assert quick == real((gold,), answer)


@settings(max_examples=50, deadline=None)
@given(
    golds=st.lists(st.integers(-3, 3).map(str), min_size=2, max_size=3).map(tuple), answer=st.integers(-3, 3).map(str)
)
def test_the_short_cut_is_math_verify_with_several_golds(golds: tuple[str, ...], answer: str) -> None:
    assert quick_verdict(golds, answer) == check(Job(golds, answer, "boxed"))


@pytest.mark.parametrize("content", ["1.5", "1,000", "x", "", "١٢", "1" * 13, "1 2", "+3", "--3", r"\text{3}"])
def test_what_is_no_plain_integer_is_left_to_math_verify(content: str) -> None:
    assert quick_verdict(("12",), content) is None


@pytest.mark.parametrize("gold", ["1/2", "$12$", "12.5", "1,2", "12.0000"])
def test_golds_that_are_no_plain_integers_are_left_to_math_verify(gold: str) -> None:
    assert quick_verdict((gold,), "12") is None


def test_endless_answers_are_wrong_without_a_look() -> None:
    assert prepare(("12",), "\\boxed{" + "1+" * 50_000 + "1}") is False
    assert prepare(("12",), "garbage " * 12_500) is False
    assert isinstance(prepare(("1+" * 1000,), "\\boxed{" + "1+" * 1500 + "1}"), Job)


@pytest.mark.parametrize("garbage", ["(" * 900, "{" * 900 + "1" + "}" * 900, "[" * 51, "\\frac{" * 300])
def test_answers_nested_out_of_reason_are_wrong_without_a_look(garbage: str) -> None:
    assert prepare(("12",), f"\\boxed{{{garbage}}}") is False
    assert isinstance(prepare(("(" * 60 + "1" + ")" * 60,), "\\boxed{" + "(" * 55 + "1" + ")" * 55 + "}"), Job)


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "(10!)!",
        "2^{-100000000}",
        r"\frac{1}{9^{9^9}}",
        r"\sqrt{9^{9^9}} + 1",
        r"\binom{100000000}{50000000}",
        "9^{99999999999999999999}",
    ],
)
def test_numbers_too_long_to_compute_equal_only_themselves(answer: str) -> None:
    assert check(Job(("5",), answer, "boxed")) is False
    assert check(Job(("5", answer), answer, "boxed")) is True
    assert check(Job((answer,), "5", "boxed")) is False


def test_towers_are_compared_as_expressions() -> None:
    assert check(Job(("9^{9^{9}}",), "{9}^{9^9}", "boxed")) is True


@pytest.mark.parametrize("answer", ["2^{100}", "2^{2^{2^{2}}}", "20!", r"\binom{50}{25}", "10^{-5}"])
def test_numbers_that_can_be_computed_are(answer: str) -> None:
    value = {"2^{100}": 2**100, "2^{2^{2^{2}}}": 65536, "20!": math.factorial(20), "10^{-5}": "0.00001"}
    gold = str(value.get(answer, math.comb(50, 25)))
    assert check(Job((gold,), answer, "boxed")) is True
