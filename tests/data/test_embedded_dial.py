"""`embedded:dead=X`: the stated mixture, nested, with the plain test split."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.data.embedded import PROMPTS, counts, embedded_table
from prepo_cli.data.loading import load_prompts
from prepo_cli.errors import UsageError
from prepo_cli.sections import is_embedded


@given(st.floats(0, 1, exclude_max=True))
def test_counts_add_up(dead: float) -> None:
    found = counts(dead)
    assert sum(found.values()) == PROMPTS
    assert min(found.values()) >= 0
    assert abs(found["beyond"] + found["wrong"] + found["solved"] - PROMPTS * dead) <= 0.5


@pytest.mark.parametrize("total", [*range(0, 1000, 37), *range(990, 1000)])
def test_every_share_finds_its_rows(total: int) -> None:
    wanted = counts(total / PROMPTS)
    assert Counter(embedded_table(f"embedded:dead={total / PROMPTS}", "train")["kind"]) == Counter(wanted)


@given(st.integers(0, PROMPTS - 1), st.integers(0, PROMPTS - 1))
def test_a_larger_share_has_no_fewer_dead_prompts_of_any_kind_but_for_rounding(one: int, other: int) -> None:
    few, many = (counts(total / PROMPTS) for total in sorted((one, other)))
    assert all(few[kind] <= many[kind] + 1 for kind in ("beyond", "wrong", "solved"))
    assert few["alive"] >= many["alive"]


@pytest.mark.parametrize(
    ("dead", "kinds"),
    [
        ("0", {"alive": 1000}),
        ("0.5", {"alive": 500, "beyond": 300, "wrong": 100, "solved": 100}),
        ("0.9", {"alive": 100, "beyond": 540, "wrong": 180, "solved": 180}),
    ],
)
def test_the_stated_mixture(dead: str, kinds: dict[str, int]) -> None:
    assert Counter(embedded_table(f"embedded:dead={dead}", "train")["kind"]) == kinds


def test_a_larger_share_keeps_the_first_living_prompts_and_adds_dead_ones() -> None:
    few, many = (embedded_table(f"embedded:dead={dead}", "train") for dead in (0.5, 0.8))
    few_of, many_of = (
        {kind: {row["id"] for row in table if (row["kind"] == "alive") == kind} for kind in (True, False)}
        for table in (few, many)
    )
    assert many_of[True] < few_of[True]
    assert few_of[False] < many_of[False]


def test_living_prompts_are_training_prompts_and_no_prompt_is_a_test_prompt() -> None:
    rows = list(embedded_table("embedded:dead=0.8", "train"))
    train = {(row["prompt"], row["answer"]) for row in embedded_table("embedded", "train")}
    test = set(embedded_table("embedded", "test")["prompt"])
    assert all((row["prompt"], row["answer"]) in train for row in rows if row["kind"] == "alive")
    assert not test & {row["prompt"] for row in rows}
    right = dict(train)
    wrong = [row for row in rows if row["kind"] == "wrong"]
    assert all(int(row["answer"]) - int(right[row["prompt"]]) >= 200 for row in wrong)


def test_the_test_split_is_the_plain_one() -> None:
    assert embedded_table("embedded:dead=0.8", "test").to_list() == embedded_table("embedded", "test").to_list()


@pytest.mark.parametrize("name", ["embedded:dead=1", "embedded:dead=-0.1", "embedded:deed=0.5", "embedded:0.8"])
def test_other_options_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: the embedded task's only option .* as in embedded:dead=0.8"):
        load_prompts(name)


def test_a_file_of_that_name_is_no_embedded_task() -> None:
    assert is_embedded("embedded") and is_embedded("embedded:dead=0.5")
    assert not is_embedded("embedded.jsonl") and not is_embedded("my/embedded")
