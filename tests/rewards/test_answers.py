from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.rewards.answers import alternatives, final_answer, given_answer, last_boxed, normalize


@pytest.mark.parametrize(
    ("completion", "content"),
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} no, \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{}", r"\{"),
        (r"\boxed{3} and \boxed{4", None),
        (r"\boxed{3} and \boxed 4", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{}", ""),
        ("12", None),
        ("", None),
    ],
)
def test_last_boxed(completion: str, content: str | None) -> None:
    assert last_boxed(completion) == content


def naive_last_boxed(text: str) -> str | None:
    """Character by character, over a text without backslashes but for the boxes'."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, content = 1, ""
    for character in text[start + len("\\boxed{") :]:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return content
        content += character
    return None


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", " ", "1"]), max_size=20).map("".join))
def test_last_boxed_against_counting_characters(text: str) -> None:
    assert last_boxed(text) == naive_last_boxed(text)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        (" 1 2 ", "12"),
        ("12.", "12"),
        ("1,234", "1234"),
        ("-1,234,567.5", "-1234567.5"),
        ("1{,}234", "1234"),
        ("1,2", "1,2"),
        ("12,34", "12,34"),
        ("1,2345", "1,2345"),
        (r"\frac{1} {2}", r"\frac{1}{2}"),
        (".", ""),
    ],
)
def test_normalize(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


@given(st.text(max_size=30))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


def test_an_empty_box_is_no_final_answer() -> None:
    assert final_answer(r"\boxed{ }") is None
    assert final_answer(r"\boxed{ 1,000. }") == "1000"


@pytest.mark.parametrize(
    ("gold", "texts"),
    [
        ("12", ("12",)),
        (12, ("12",)),
        (27.0, ("27.0",)),
        (["1", 2], ("1", "2")),
        (np.array(["a", "b"], dtype=object), ("a", "b")),
        (np.int64(3), ("3",)),
        (None, ()),
        ([], ()),
    ],
)
def test_alternatives(gold: object, texts: tuple[str, ...]) -> None:
    assert alternatives(gold) == texts


@pytest.mark.parametrize(
    "garbage", ["{" * 100_000, "\\boxed{" * 20_000, "\\boxed" * 20_000, "\\boxed{" + "{}" * 60_000]
)
def test_garbage_takes_no_time(garbage: str) -> None:
    started = perf_counter()
    assert final_answer(garbage) is None
    assert perf_counter() - started < 1


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"so \boxed{104.} mm", "104"),
        (r"\boxed{\textbf{(073)}}", "073"),
        (r"\boxed{(7)}", "7"),
        (r"\boxed{-2.50}", "-2.50"),
        (r"\boxed{(7,5)}", "(7,5)"),
        (r"\boxed{\text{not rational}}", r"\text{not rational}"),
        (r"\boxed{n is even.}", "n is even."),
        ("6 + 2 = 8\n#### 8", "8"),
        ("#### 1\nno, wait\n#### 70,000 ", "70,000"),
        ("#### 8\nand more", "8"),
        (r"#### 8 but \boxed{9}", "9"),
        (r"#### 8 but \boxed{9", None),
        ("the sum is 8", None),
    ],
)
def test_given_answers(completion: str, expected: str | None) -> None:
    found = given_answer(completion)
    assert (found if found is None else found.strip()) == expected
