"""Any dataset file and any run folder is read or refused in one line, and nothing is left behind."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.comparison.runs import read_run
from prepo_cli.data.loading import load_prompts
from prepo_cli.errors import UsageError
from tests.comparison.test_runs import SUMMARY, write_run
from tests.fuzz.console import fuzz

NAMES = st.sampled_from(["prompt", "answer", "id", "source", "difficulty", "rank", "ppl", "pass_rate", "other"])
TEXT = st.text(max_size=20) | st.sampled_from(["1 + 1?", "007", "9007199254740993", "[" * 300, "\\boxed{", "\ud800"])
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | NAMES, inner, max_size=3),
    max_leaves=6,
)
GOOD = st.fixed_dictionaries({"prompt": TEXT.filter(str.strip), "answer": TEXT.filter(str.strip)})
ROWS = st.lists(GOOD | st.dictionaries(NAMES, CELLS, max_size=5), max_size=6)
NOISE = st.just(b"") | st.binary(max_size=12)


def load(path: Path, content: bytes, skip: bool) -> None:
    """What is read has at least one row; what is refused is refused in one line that names the file."""
    path.write_bytes(content)
    refusal = None
    try:
        dataset = load_prompts(str(path), skip_bad_rows=skip)
        assert len(dataset) > 0
        assert all(dataset.question(row).strip() for row in range(len(dataset)))
    except UsageError as error:
        refusal = str(error)
    assert refusal is None or (path.name in refusal and "\n" not in refusal), refusal
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def damaged(content: bytes, place: int, noise: bytes) -> bytes:
    at = place % (len(content) + 1)
    return content[:at] + noise + content[at:]


@fuzz
@given(ROWS, st.integers(0), NOISE, st.booleans())
def test_any_jsonl(tmp_path: Path, rows: list[dict[str, Any]], place: int, noise: bytes, skip: bool) -> None:
    load(tmp_path / "data.jsonl", damaged("".join(json.dumps(row) + "\n" for row in rows).encode(), place, noise), skip)


@fuzz
@given(ROWS, st.integers(0), NOISE, st.booleans())
def test_any_json(tmp_path: Path, rows: list[dict[str, Any]], place: int, noise: bytes, skip: bool) -> None:
    load(tmp_path / "data.json", damaged(json.dumps(rows, indent=1).encode(), place, noise), skip)


@fuzz
@given(st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=6), st.integers(0), NOISE, st.booleans())
def test_any_csv(tmp_path: Path, rows: list[list[str]], place: int, noise: bytes, skip: bool) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["prompt", "answer", "ppl"], *rows])
    load(tmp_path / "data.csv", damaged(text.getvalue().encode(errors="surrogatepass"), place, noise), skip)


@fuzz
@given(ROWS, st.integers(0), NOISE, st.booleans())
def test_any_parquet(tmp_path: Path, rows: list[dict[str, Any]], place: int, noise: bytes, skip: bool) -> None:
    buffer = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), buffer)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        buffer.write(b"PAR1")
    load(tmp_path / "data.parquet", damaged(buffer.getvalue(), place, noise), skip)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", summary=SUMMARY | {"steps": 4})


@fuzz
@given(st.sampled_from(["config.yaml", "summary.json", "metrics.jsonl", "evaluations.jsonl"]), st.integers(0),
       st.integers(0, 20), st.binary(max_size=4) | CELLS.map(lambda cell: json.dumps(cell).encode()))  # fmt: skip
def test_any_run_folder(run: Path, tmp_path: Path, file: str, place: int, cut: int, noise: bytes) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    content = (folder / file).read_bytes()
    at = place % (len(content) + 1)
    (folder / file).write_bytes(content[:at] + noise + content[at + cut :])
    before = sorted(path.name for path in folder.rglob("*"))
    refusal = None
    try:
        read_run(folder)
    except UsageError as error:
        refusal = str(error)
    assert refusal is None or (file in refusal and "\n" not in refusal), refusal
    assert sorted(path.name for path in folder.rglob("*")) == before
