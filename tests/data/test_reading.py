"""Files are read literally, under limits, and every bad row is named or counted; no digit of a text is lost."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prepo_cli.data import reading, rows
from prepo_cli.data.loading import load_prompts
from prepo_cli.data.reading import read_file
from prepo_cli.data.rows import csv_rows, json_items, json_lines
from prepo_cli.data.spill import Spill
from prepo_cli.errors import UsageError

GOOD = '{"prompt": "1 + 1?", "answer": "2"}\n'
DEEP = "[" * 100_000 + "]" * 100_000
TEXT = frozenset({"answer", "id"})
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    "name", ["data[1].jsonl", "*.jsonl", "da?a1.jsonl", "zip::data1.jsonl", "{data1,x}.jsonl", "**"]
)
def test_names_of_files_are_literal(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data1.jsonl", '{"prompt": "another file", "answer": "0"}\n')
    folder = tmp_path / "fo[l]der"
    folder.mkdir()
    for place in (tmp_path, folder):
        path = place / name if name.endswith(".jsonl") else place / f"{name}.jsonl"
        assert load_prompts(write(path, GOOD)).question(0) == "1 + 1?"


def test_names_of_folders_and_their_files_are_literal(tmp_path: Path) -> None:
    for name in ("a1", "a[1]"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train[1].jsonl", f'{{"prompt": "in {name}", "answer": "0"}}\n')
    assert load_prompts(str(tmp_path / "a[1]")).question(0) == "in a[1]"


def test_files_that_name_no_split_are_the_training_set(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": GOOD, "b.jsonl": GOOD, "config.json": "{}", "dataset_info.json": "{}"}.items():
        write(tmp_path / name, content)
    assert len(load_prompts(str(tmp_path))) == 2
    with pytest.raises(UsageError, match="no split 'test'; it has train"):
        load_prompts(str(tmp_path), split="test")


def test_the_files_of_a_split_are_joined_and_rows_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        pq.write_table(
            pa.table({"prompt": [f"p{number}", "q"], "answer": ["1", "2"]}),
            tmp_path / "data" / f"train-0000{number}-of-00002.parquet",
        )
    write(tmp_path / "data" / "test.jsonl", GOOD + "\n" + '{"prompt": "", "answer": "2"}\n')
    train = load_prompts(str(tmp_path))
    assert [train.question(i) for i in range(len(train))] == ["p0", "q", "p1", "q"]
    assert train.place(3).endswith("train-00001-of-00002.parquet, row 2")
    with pytest.raises(UsageError, match=r"data/test.jsonl, line 3: the prompt is empty"):
        load_prompts(str(tmp_path), split="test")
    with pytest.raises(UsageError, match=r"no split 'validation'; it has test, train"):
        load_prompts(str(tmp_path), split="validation")


BAD = {
    "deep answer": ('{"prompt": "x", "answer": ' + DEEP + "}", "line 2: nested more than 64 levels deep"),
    "deep elsewhere": ('{"prompt": "x", "answer": "2", "meta": ' + DEEP + "}", "line 2: nested more than 64"),
    "65 levels": ('{"prompt": "x", "answer": "2", "m": ' + "[" * 65 + "]" * 65 + "}", "line 2: nested more than 64"),
    "not UTF-8": (b'{"prompt": "caf\xe9", "answer": "2"}', "line 2: invalid UTF-8 at byte 16"),
    "surrogate": ('{"prompt": "\\ud800", "answer": "2"}', "line 2: .* surrogate"),
    "surrogate in a key": ('{"prompt": "x", "answer": "2", "\\uDfff": 1}', "line 2: .* surrogate"),
    "NaN": ('{"prompt": "x", "answer": NaN}', "line 2: NaN is not a JSON value; write null"),
    "infinity": ('{"prompt": "x", "answer": "2", "ppl": 1e999}', "line 2: the number in 'ppl' does not fit in a float"),
    "a huge number": ('{"prompt": "x", "answer": "2", "n": 1' + "0" * 5000 + "}", "'n' does not fit in 64 bits"),
    "a key twice": ('{"prompt": "x", "answer": "2", "answer": "3"}', "line 2: the key 'answer' occurs twice"),
    "no object": ("[1]", "line 2: not a JSON object"),
    "two objects": (GOOD.strip() * 2, "line 2: extra text after the object, at column 36"),
    "cut off": ('{"prompt": "x", "ans', "line 2: Unterminated string"),
    "too long": ('{"prompt": "' + "x" * 2**24 + '", "answer": "2"}', "line 2: longer than 16 MB"),
    "a number as prompt": ('{"prompt": 5, "answer": "2"}', "line 2: invalid prompt 5"),
    "an object as id": ('{"prompt": "x", "answer": "2", "id": {"a": 1}}', "line 2: the id is neither text nor"),
    "a list as source": ('{"prompt": "x", "answer": "2", "source": [1]}', "line 2: the source is neither text nor"),
    "an object as answer": ('{"prompt": "x", "answer": {"a": 1}}', "line 2: invalid answer"),
    "a truth value": ('{"prompt": "x", "answer": true}', "line 2: invalid answer True"),
    "a word as rank": ('{"prompt": "x", "answer": "2", "rank": "low"}', "line 2: the rank is not a number: 'low'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, name: str) -> None:
    bad, message = BAD[name]
    good = b'{"prompt": "y", "answer": "3", "rank": 1}\n'
    path = write(tmp_path / "d.jsonl", good + (bad if isinstance(bad, bytes) else bad.encode()) + b"\n\n" + good)
    with pytest.raises(UsageError, match=message) as error:
        load_prompts(path)
    assert "\n" not in str(error.value)
    dataset = load_prompts(path, skip_bad_rows=True)
    assert (len(dataset), dataset.skipped, dataset.answer(1)) == (2, 1, "3")
    assert dataset.place(1).endswith("line 4")


def test_a_bad_row_late_in_a_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD * 4321 + '{"prompt": ["x"], "answer": "2"}\n')
    with pytest.raises(UsageError, match="line 4322: the prompt is neither text nor a list of messages"):
        load_prompts(path)


def test_text_and_messages_may_be_mixed(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "in a message"}]
    rows_of_file = [{"prompt": "plain", "answer": ["1", 2.5]}, {"prompt": messages, "answer": 7}]
    dataset = load_prompts(write(tmp_path / "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows_of_file)))
    assert [dataset.question(i) for i in range(2)] == ["plain", "in a message"]
    assert [dataset.answer(i) for i in range(2)] == [["1", "2.5"], "7"]


def test_labels_in_a_column_of_numbers_are_not_used(tmp_path: Path) -> None:
    line = '{"prompt": "x", "answer": "1", "difficulty": "hard", "rank": "3"}\n'
    dataset = load_prompts(write(tmp_path / "d.jsonl", line))
    assert dataset.columns == {"rank"}
    assert (dataset.prompt(0).difficulty, dataset.prompt(0).rank) == (None, 3.0)
    assert "column 'difficulty' is not used: it contains no numbers" in dataset.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,answer\na,1\ncaf\xe9,2\n", "row 2: a cell is not valid UTF-8"),
        ("prompt,answer\na,1\nb,2,3\n", "row 2: 3 cells, but the header has 2"),
        ('prompt,answer\na,1\n"b"c,3\n', "row 2: ',' expected after"),
        ("prompt,answer,ppl\na,1,2\nb,2,much\n", "row 2: the ppl is not a number: 'much'"),
        ("prompt,answer\na,1\n,3\n", "row 2: the prompt is missing"),
        ("prompt,answer\na,1\nb,\r3\n", "row 2: a carriage return without a line feed outside quotes"),
    ],
)
def test_a_bad_row_of_csv_is_named_or_skipped(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "d.csv", content)
    with pytest.raises(UsageError, match=message):
        load_prompts(path)
    dataset = load_prompts(path, skip_bad_rows=True)
    assert (len(dataset), dataset.skipped) == (1, 1)


def test_a_bad_row_of_parquet_is_named_or_skipped(tmp_path: Path) -> None:
    parts = pa.array([b"ok", b"caf\xe9", b"y"], pa.binary()).buffers()
    broken = pa.StringArray.from_buffers(3, parts[1], parts[2])
    pq.write_table(pa.table({"prompt": broken, "answer": ["1", "2", "3"]}), tmp_path / "d.parquet")
    path = str(tmp_path / "d.parquet")
    with pytest.raises(UsageError, match="row 2: it contains text that is not valid UTF-8"):
        load_prompts(path)
    dataset = load_prompts(path, skip_bad_rows=True)
    assert [dataset.answer(i) for i in range(len(dataset))] == ["1", "3"]


def test_bad_items_of_an_array_are_named_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", f'[{GOOD}, {{"prompt": "x", "answer": NaN}}, 5, {GOOD}]')
    with pytest.raises(UsageError, match="row 2: NaN"):
        load_prompts(path)
    dataset = load_prompts(path, skip_bad_rows=True)
    assert (len(dataset), dataset.skipped, dataset.place(1)) == (2, 2, f"{path}, row 4")
    for content in (f"[{GOOD} {GOOD}]", f"[{GOOD},]", f"[{GOOD}", f"[{GOOD}] x", f"[{GOOD}, {DEEP}]"):
        for skip in (False, True):
            with pytest.raises(UsageError, match=r"can't be read: .*row [12]"):
                load_prompts(write(tmp_path / "d.json", content), skip_bad_rows=skip)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,answer\ra,1\r", "the header: a carriage return without a line feed outside quotes"),
        (b"prompt,caf\xe9\na,1\n", "the header is not valid UTF-8"),
        (b'prompt,"a"b\na,1\n', "the header: ',' expected"),
        (b"prompt,prompt\na,1\n", "the header has the column 'prompt' twice"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_bad_header_is_named_even_if_bad_rows_are_skipped(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "d.csv", content)
    for skip in (False, True):
        with pytest.raises(UsageError, match=message):
            load_prompts(path, skip_bad_rows=skip)


def test_columns_are_shown_on_one_line_of_bounded_length(tmp_path: Path) -> None:
    keys = {f"key\n{i}": 1 for i in range(500)}
    with pytest.raises(UsageError) as raised:
        load_prompts(write(tmp_path / "d.jsonl", json.dumps({"prompt": "x", **keys})))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_what_is_no_data_is_refused(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{ending}")
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    (tmp_path / f"gone.{ending}").symlink_to(tmp_path / "nowhere")
    write(tmp_path / f"empty.{ending}", "")
    (tmp_path / f"folder.{ending}").mkdir()
    for name, message in {
        "pipe": "not a regular file",
        "zero": "not a regular file",
        "gone": "no such dataset file",
        "empty": "is empty",
        "folder": "can't be loaded",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_prompts(str(tmp_path / f"{name}.{ending}"))


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["x"] * 1000, "answer": [str(i) for i in range(1000)]}), tmp_path / "d.parquet")
    whole = (tmp_path / "d.parquet").read_bytes()
    for content in (b"PAR1", whole[: len(whole) // 2], whole[:-1]):
        with pytest.raises(UsageError, match="can't be read"):
            load_prompts(write(tmp_path / "d.parquet", content))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("9007199254740993", "9007199254740993"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.50", "1.50"),
        ("27.0", "27"),
        ("9007199254740993.0", "9007199254740993"),
        ("-0.10e-400", "-0.10e-400"),
    ],
)
def test_answers_keep_their_digits(tmp_path: Path, number: str, text: str) -> None:
    lines_of = [f'{{"prompt": "x", "answer": {answer}}}\n' for answer in (number, "0.5", '"text"')]
    lines = write(tmp_path / "d.jsonl", "".join(lines_of))
    assert load_prompts(lines).answer(0) == text
    nested = f'{{"prompt": "x", "reward_model": {{"ground_truth": {number}, "n": 1.50}}}}'
    dataset = load_prompts(write(tmp_path / "n.jsonl", nested))
    assert (dataset.answer(0), dataset.fields(0)["reward_model"]["n"]) == (text, 1.5)
    assert load_prompts(write(tmp_path / "d.json", f"[{lines_of[0]}]")).answer(0) == text


def test_csv_cells_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "id,prompt,answer,rank\n007,x,12345678901234567890123,3\n8,NA,1.50,\n")
    dataset = load_prompts(path)
    assert [dataset.prompt(i).id for i in range(2)] == ["007", "8"]
    assert [dataset.answer(i) for i in range(2)] == ["12345678901234567890123", "1.50"]
    assert [dataset.prompt(i).rank for i in range(2)] == [3.0, None]
    assert dataset.question(1) == "NA"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9).map(lambda i: i / 2) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pqr"), inner, max_size=3),
    max_leaves=6,
)
objects = st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=3), min_size=1, max_size=6)


def known(value: Any) -> Any:
    """The value without nulls in objects, since a column's objects share their keys."""
    if isinstance(value, dict):
        return {key: known(item) for key, item in value.items() if known(item) not in (None, {})}
    return [known(item) for item in value] if isinstance(value, list) else value


@settings(quick, max_examples=60)
@given(objects, st.integers(1, 3), st.booleans())
def test_rows_read_are_those_that_json_reads(found: list[dict[str, Any]], batch: int, array: bool) -> None:
    ascii_only = len(found) % 2 == 0
    texts_of_rows = [json.dumps(row, ensure_ascii=ascii_only) for row in found]
    source = f"[{','.join(texts_of_rows)}]" if array else "\n".join(texts_of_rows)
    parse = json_items if array else json_lines
    spill, parsed = Spill(None), [cells for _, _, cells in parse(io.BytesIO(source.encode()), frozenset())]
    assert parsed == [json.loads(text) for text in texts_of_rows]
    for start in range(0, len(parsed), batch):
        spill.add_rows(parsed[start : start + batch])  # type: ignore[arg-type]
    table = datasets.Dataset(spill.table(), fingerprint="rows")
    assert [known(row) for row in table] == [known(row) for row in found]


@quick
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_csv_cells_read_are_those_written(cells: list[tuple[str, str]]) -> None:
    cells = [tuple(c.replace("\r", "").replace("\0", "") for c in row) for row in cells]  # type: ignore[misc]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("prompt", "rank"), *cells])
    found = [row for _, _, row in csv_rows(io.BytesIO(buffer.getvalue().encode()), frozenset({"rank"}))]
    assert found == [{"prompt": a or None, "rank": b or None} for a, b in cells]


@quick
@given(
    st.sampled_from(["jsonl", "json", "csv", "parquet"]),
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 10**4), st.binary(max_size=3)), max_size=4),
    st.booleans(),
)
def test_any_bytes_give_rows_or_one_line(
    tmp_path: Path, ending: str, noise: bytes, edits: list[tuple[int, bytes]], skip: bool
) -> None:
    path = tmp_path / f"d.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"prompt": ["x", "y"], "answer": ["1", "2"], "m": [[1], [2]]}), path)
    elif ending == "csv":
        path.write_text('prompt,answer,ppl\n"x, y",1,2.5\nz,007,\n')
    else:
        row = '{"prompt": "x", "answer": 2.50, "id": 7, "meta": {"a": [1, "b", null]}}'
        path.write_text(f"[{row}, {row}]" if ending == "json" else f"{row}\n{row}\n")
    content = bytearray(path.read_bytes() if edits else noise)
    for at, replacement in edits:
        at %= len(content) + 1
        content[at : at + 1] = replacement
    path.write_bytes(content)
    try:
        dataset = load_prompts(str(path), skip_bad_rows=skip)
    except UsageError as refused:
        message = str(refused)
    else:
        message = "every row can be used"
        for index in range(len(dataset)):
            dataset.prompt(index), dataset.question(index).encode(), dataset.answer(index), dataset.fields(index)
    assert "\n" not in message
    assert len(message) < 1000


def test_large_files_are_kept_on_disk_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write(tmp_path / "d.jsonl", GOOD * 5000 + '{"prompt": "z", "answer": 0.10, "source": "s"}\n' * 3000))
    in_memory = read_file(path, False, TEXT).table
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(reading, "LARGE", 0)
    for _ in range(2):
        assert read_file(path, False, TEXT).table.equals(in_memory)
        (kept,) = (tmp_path / "cache" / "prepo").iterdir()
        assert kept.suffix == ".arrow"
    whole = kept.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-8], b"x" + whole[1:]):
        kept.write_bytes(damaged)
        assert read_file(path, False, TEXT).table.equals(in_memory)
    write(path, GOOD)
    assert len(read_file(path, False, TEXT).table) == 1
    write(path, GOOD + "\n[]\n" + GOOD)
    reading_with_gaps = read_file(path, True, TEXT)  # not kept: the numbers of its rows would be lost
    assert (reading_with_gaps.numbers.tolist(), reading_with_gaps.bad) == ([1, 4], 1)  # type: ignore[union-attr]
    assert len(list((tmp_path / "cache" / "prepo").iterdir())) == 2


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": "x", "answer": "1", f"column {i}": 1}) + "\n" for i in range(1001))
    with pytest.raises(UsageError, match="more than 1,000 different columns or keys, at line 999"):
        load_prompts(write(tmp_path / "d.jsonl", lines))
    keys = {f"key {i}": {f"k{j}": 1 for j in range(40)} for i in range(40)}
    with pytest.raises(UsageError, match="more than 1,000 different"):
        load_prompts(write(tmp_path / "e.jsonl", json.dumps({"prompt": "x", "answer": "1", "meta": keys})))


def test_the_limit_is_a_row_of_16_megabytes() -> None:
    assert rows.MAX_ROW_BYTES == 2**24
    exact = b'"' + b"x" * (rows.MAX_ROW_BYTES - 3) + b'"\n'
    found = [str(cells) for _, _, cells in json_lines(io.BytesIO(exact + b" " + exact), frozenset())]
    assert found == ["not a JSON object", "longer than 16 MB"]
