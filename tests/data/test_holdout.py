"""Held-out prompts: a fixed choice by id or text, whatever the order, and no prompt on both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.data.fingerprint import row_checksums
from prepo_cli.data.holdout import Holdout, held_out_count, held_out_rows, hold_out
from prepo_cli.data.loading import PromptDataset, load_prompts

HASHES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=200)


def rows(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{i} + 1?", "answer": str(i + 1), **{k: f(i) for k, f in columns.items()}} for i in range(count)
    ]


def loaded(path: Path, content: Sequence[dict[str, Any]], **options: Any) -> PromptDataset:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return load_prompts(str(path), **options)


def split(path: Path, content: Sequence[dict[str, Any]], share: float = 0.05, **options: Any) -> Holdout:
    found = hold_out(loaded(path, content), share, **options)
    assert found is not None
    return found


def questions(dataset: PromptDataset) -> list[str]:
    return [dataset.question(i) for i in range(len(dataset))]


def ids(dataset: PromptDataset) -> list[str]:
    return [dataset.prompt(i).id for i in range(len(dataset))]


@given(HASHES, st.floats(0, 0.5))
def test_every_row_is_trained_on_held_out_or_repeats_one_that_is(hashes: list[tuple[int, int]], share: float) -> None:
    id_N, text_N = (
        (np.array(column, np.uint64) for column in zip(*hashes, strict=True)) if hashes else (np.zeros(0),) * 2
    )
    found, texts = held_out_rows(id_N, text_N, share), {text for _, text in hashes}
    count = held_out_count(len(texts), share)
    assert (found is None) == (count == 0)
    if found is None:
        return
    train, held = found
    trained, held_texts = {hashes[row][1] for row in train}, [hashes[row][1] for row in held]
    assert len(held) == len(set(held_texts)) == count
    assert trained == texts - set(held_texts)
    assert train.tolist() == [row for row, (_, text) in enumerate(hashes) if text in trained]
    smallest = {text: min(own for own, other in hashes if other == text) for text in texts}
    assert [hashes[row][0] for row in held] == sorted(smallest.values())[:count]


@given(st.integers(0, 10**7), st.floats(0, 0.5))
def test_the_count_is_the_share_but_at_least_fifty_and_at_most_half(prompts: int, share: float) -> None:
    count = held_out_count(prompts, share)
    assert count <= prompts / 2
    assert count == min(prompts // 2, 50 if share * prompts < 50 else round(share * prompts))


@pytest.mark.parametrize("columns", [{}, {"id": lambda i: f"row-{i}"}, {"id": lambda i: i if i % 2 else None}])
def test_the_choice_does_not_depend_on_the_order(tmp_path: Path, columns: dict[str, Any]) -> None:
    content = rows(400, **columns)
    shuffled = [content[i] for i in np.random.default_rng(0).permutation(400)]
    one, other = split(tmp_path / "a.jsonl", content), split(tmp_path / "b.jsonl", shuffled)
    assert len(one.held_out) == 50
    assert set(questions(one.held_out)) == set(questions(other.held_out))
    assert set(questions(one.train)) | set(questions(one.held_out)) == {row["prompt"] for row in content}


def test_the_choice_is_by_the_hash_of_the_id(tmp_path: Path) -> None:
    content = rows(3000, id=lambda i: f"row-{i}")
    found = split(tmp_path / "d.jsonl", content, limit=20)
    by_hash = sorted(
        range(3000), key=lambda i: int.from_bytes(blake2b(f"row-{i}".encode(), digest_size=8).digest(), "little")
    )
    assert ids(found.held_out) == [f"row-{i}" for i in sorted(by_hash[:150])]
    assert ids(found.evaluated) == [f"row-{i}" for i in sorted(by_hash[:20])]
    assert ids(found.train) == [f"row-{i}" for i in sorted(by_hash[150:])]
    larger = split(tmp_path / "d.jsonl", content, share=0.1)
    assert set(ids(found.held_out)) < set(ids(larger.held_out)), "a larger share keeps the smaller one"


@pytest.mark.parametrize("columns", [{}, {"id": lambda i: f"row-{i}"}])
def test_a_prompt_that_occurs_twice_is_on_one_side(tmp_path: Path, columns: dict[str, Any]) -> None:
    content = [{**row, "prompt": f"{i % 150} + 1?"} for i, row in enumerate(rows(450, **columns))]
    found = split(tmp_path / "d.jsonl", content)
    train, held = questions(found.train), questions(found.held_out)
    assert not set(train) & set(held)
    assert (len(held), len(set(held)), len(train), found.repeats) == (50, 50, 300, 100)


def test_messages_are_prompts_too(tmp_path: Path) -> None:
    content = rows(120)
    chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in content]
    found = split(tmp_path / "d.jsonl", [*chats, *chats])
    assert (len(found.held_out), len(found.train), found.repeats) == (50, 140, 50)
    assert not set(questions(found.train)) & set(questions(found.held_out))


def test_parts_keep_ids_and_places_also_where_bad_rows_are_skipped(tmp_path: Path) -> None:
    content = [{"prompt": " ", "answer": "1"}, *rows(100)]
    found = hold_out(loaded(tmp_path / "d.jsonl", content, skip_bad_rows=True), 0.05)
    assert found is not None
    for part in (found.train, found.held_out):
        for i, question in enumerate(questions(part)):
            number = int(question.split()[0]) + 1
            assert part.prompt(i).index == i
            assert part.prompt(i).id == str(number)
            assert part.place(i).endswith(f", line {number + 1}")
    assert len(row_checksums(found.train)) == len(found.train)


def test_a_single_prompt_can_not_be_held_out(tmp_path: Path) -> None:
    assert hold_out(loaded(tmp_path / "d.jsonl", rows(1) * 5), 0.5) is None
