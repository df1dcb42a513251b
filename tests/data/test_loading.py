"""Columns, formats, bad rows and their error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prepo_cli.data.fingerprint import row_checksums
from prepo_cli.data.loading import load_prompts
from prepo_cli.errors import UsageError


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


GOOD = {"prompt": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data.{ending}"
    rows = [{"question": f"{i} + 1?", "final_answer": str(i + 1), "source": "sum", "difficulty": 2} for i in range(3)]
    if ending == "jsonl":
        jsonl(path, *rows)
    elif ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "csv":
        path.write_text(
            "question,final_answer,source,difficulty\n" + "".join(f"{i} + 1?,{i + 1},sum,2\n" for i in range(3))
        )
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = load_prompts(str(path))
    assert len(dataset) == 3
    assert dataset.question(1) == "1 + 1?"
    assert dataset.answer(1) == "2"
    prompt = dataset.prompt(1)
    assert (prompt.index, prompt.id, prompt.source, prompt.difficulty) == (1, "1", "sum", 2.0)
    assert dataset.columns == {"source", "difficulty"}
    assert dataset.fields(1)["answer"] == "2"


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "q", "answer": "She has 3.\n#### 1,018"}, "1,018"),
        ({"prompt": "q", "solution": "So it is \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"prompt": "q", "answer": "7", "solution": "long text"}, "7"),
        ({"prompt": "q", "final_answer": "['2']"}, "2"),
        ({"prompt": "q", "final_answer": "['2', '3']"}, ["2", "3"]),
        ({"prompt": "q", "answer": "[1, 2]"}, "[1, 2]"),
        ({"prompt": "q", "answer": ["2", "2.0"]}, ["2", "2.0"]),
        ({"prompt": "q", "answer": 42}, "42"),
        ({"prompt": "q", "answer": 27.0}, "27"),
        ({"prompt": "q", "target": "x", "solution": "y"}, "x"),
        ({"prompt": "q", "reward_model": {"ground_truth": "34", "style": "rule"}}, "34"),
    ],
)
def test_gold_answers(tmp_path: Path, row: dict[str, Any], answer: Any) -> None:
    assert load_prompts(jsonl(tmp_path / "d.jsonl", row)).answer(0) == answer


def test_verl_messages(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 + 1?"}],
        "reward_model": {"ground_truth": "2"},
    }
    dataset = load_prompts(jsonl(tmp_path / "d.jsonl", row))
    assert dataset.messages(0) == row["prompt"]
    assert dataset.question(0) == "1 + 1?"


CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "So it is \\boxed{2}."},
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_conversation_is_a_prompt_and_its_last_turn_the_answer(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"d.{ending}"
    rows = [{"messages": CHAT}, {"messages": [*CHAT[:2], CHAT[2] | {"content": "3"}]}]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "json":
        path.write_text(json.dumps(rows))
    else:
        jsonl(path, *rows)
    dataset = load_prompts(str(path))
    assert [dataset.messages(i) for i in (0, 1)] == [CHAT[:2], CHAT[:2]]
    assert [dataset.answer(i) for i in (0, 1)] == ["2", "3"]
    assert dataset.question(0) == "1 + 1?"
    assert dataset.fields(0)["answer"] == "2"
    assert dataset.notes == ["prompts from column 'messages'", "answers from column 'messages.assistant'"]
    assert len(set(row_checksums(dataset).tolist())) == 2


def test_the_last_turn_is_never_part_of_the_prompt(tmp_path: Path) -> None:
    dataset = load_prompts(jsonl(tmp_path / "d.jsonl", {"prompt": CHAT, "messages": CHAT[:1], "answer": "7"}))
    assert (dataset.messages(0), dataset.answer(0)) == (CHAT[:2], "7")
    named = load_prompts(
        jsonl(tmp_path / "n.jsonl", {"chat": CHAT}), prompt_column="chat", answer_column="chat.assistant"
    )
    assert (named.messages(0), named.answer(0)) == (CHAT[:2], "2")
    unanswered = jsonl(tmp_path / "u.jsonl", {"messages": CHAT[:2]})
    assert load_prompts(unanswered, need_answer=False).messages(0) == CHAT[:2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([CHAT, CHAT[:2]], "line 2: the answer is missing"),
        ([CHAT[:2], CHAT], "no answer column"),
        ([CHAT, CHAT[2:]], "line 2: the prompt contains only assistant turns"),
        ([CHAT, [*CHAT[:2], {"role": "assistant", "content": ""}]], "line 2: the answer is empty"),
        ([CHAT, [*CHAT[:2], {"role": "assistant", "content": None}]], "line 2: the prompt is neither text nor a list"),
    ],
)
def test_conversations_that_cant_be_used(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_prompts(jsonl(tmp_path / "d.jsonl", *({"messages": messages} for messages in rows)))


def test_embedded_splits() -> None:
    assert len(load_prompts("embedded")) == 4000
    assert len(load_prompts("embedded", split="test", limit=7)) == 7
    with pytest.raises(UsageError, match="no split 'dev'; choose train or test"):
        load_prompts("embedded", split="dev")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, '{"prompt": "x", "answer": }'], r"line 2: .*--skip-bad-rows"),
        ([GOOD, {"prompt": "", "answer": "2"}], r"line 2: the prompt is empty"),
        ([GOOD, {"prompt": "x", "answer": None}], r"line 2: the answer is missing"),
        ([GOOD, {"prompt": None, "answer": "x"}], r"line 2: the prompt is missing"),
        (
            [{**GOOD, "id": 3}, {**GOOD, "id": 3}],
            r"line 2: duplicate id '3'; fix it, or skip bad rows with --skip-bad-rows",
        ),
        ([{"text": "x", "answer": "2"}], r"no prompt column .*; choose one of text, answer with --prompt-column"),
        ([{"prompt": "x", "label": "2"}], r"no answer column .*; choose one of prompt, label with --answer-column"),
        ([], r"is empty"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_prompts(jsonl(tmp_path / "d.jsonl", *rows))
    assert "\n" not in str(error.value)


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", GOOD, "{broken", {"prompt": "", "answer": "1"}, {"prompt": "y", "answer": "3"})
    dataset = load_prompts(path, skip_bad_rows=True)
    assert [dataset.question(i) for i in range(len(dataset))] == ["1 + 1?", "y"]
    assert dataset.skipped == 2
    assert dataset.part(range(2)).to_pylist() == [GOOD, {"prompt": "y", "answer": "3"}]


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "./folder/x.parquet", "/nowhere/at/all", "./" + "x" * 5000, "nul\0.csv"]
)
def test_missing_files_are_not_searched_for_on_the_hub(name: str) -> None:
    with pytest.raises(UsageError, match="no such dataset file"):
        load_prompts(name)


def test_columns_by_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "x", "label": "2", "prompt": "no"})
    dataset = load_prompts(path, prompt_column="text", answer_column="label")
    assert (dataset.question(0), dataset.answer(0)) == ("x", "2")
    with pytest.raises(UsageError, match=r"no column 'labl' \(did you mean 'label'"):
        load_prompts(path, answer_column="labl")


def test_scoring_needs_no_answers(tmp_path: Path) -> None:
    assert load_prompts(jsonl(tmp_path / "d.jsonl", {"prompt": "x"}), need_answer=False).answer(0) is None
