"""Columns added to a dataset: streamed in every format, resumed after an interruption."""

from __future__ import annotations

import json
import threading
import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import load_dataset

from prepo_cli.chunks import Chunks
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.engines.base import Progress
from prepo_cli.errors import UsageError
from prepo_cli.evaluation import added_columns as module
from prepo_cli.evaluation.added_columns import AddedColumns

ROWS = 11
SECONDS = 20.0
"""A wait that lasts this long has failed."""


def make_dataset(folder: Path, **columns: list[Any]) -> PromptDataset:
    path = folder / "d.jsonl"
    texts = [f'é{i}, "two"\nlines' for i in range(ROWS)]
    rows = [{"prompt": text, **{name: values[i] for name, values in columns.items()}} for i, text in enumerate(texts)]
    rows.insert(3, {"prompt": ""} | {name: values[0] for name, values in columns.items()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_prompts(str(path), need_answer=False, skip_bad_rows=True)


def squares(rows: range, numbers: list[int], advance: Progress) -> pa.Table:
    """Squares of row numbers; none for multiples of 5."""
    advance(len(rows))
    return pa.table({"square": pa.array([None if row % 5 == 0 else row * row / 2 for row in numbers], pa.float64())})


def chunks_of(size: int) -> list[range]:
    return [range(start, min(start + size, ROWS)) for start in range(0, ROWS, size)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize(("size", "at_once"), [(2, 5), (3, 1), (4, 2048)])
def test_rows_keep_their_order_and_the_bad_ones_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, size: int, at_once: int
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_WRITE", at_once)
    dataset = make_dataset(tmp_path, number=list(range(ROWS)), square=["old"] * ROWS)
    out = tmp_path / f"out.{ending}"
    added = AddedColumns(dataset, out, "mark", chunks_of(size))
    assert added.compute(list, squares)[0] == ROWS
    added.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", out.name]
    table = load_dataset("json" if ending == "jsonl" else ending, data_files=str(out), split="train")
    assert table["prompt"][:] == [dataset.question(row) for row in range(ROWS)]
    assert table["number"][:] == list(range(ROWS))
    assert table["square"][:] == [None if row % 5 == 0 else row * row / 2 for row in range(ROWS)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_no_digit_of_another_column_is_lost(tmp_path: Path, ending: str) -> None:
    numbers = [0.1234567890123456 + row for row in range(ROWS)]
    mixed = [{"a": [1, None]}, "text", 2**53 + 1, None, 0.5] + [["x"]] * (ROWS - 5)
    dataset = make_dataset(tmp_path, number=numbers, mixed=mixed, answer=[2**60 + 1] * ROWS)
    out = tmp_path / f"out.{ending}"
    added = AddedColumns(dataset, out, "mark", chunks_of(4))
    added.compute(list, squares)
    added.write()
    again = load_prompts(str(out), need_answer=False)
    assert [again.fields(row)["number"] for row in range(ROWS)] == numbers
    assert [again.fields(row)["mixed"] for row in range(ROWS)] == mixed
    assert {again.fields(row)["answer"] for row in range(ROWS)} == {str(2**60 + 1)}


def test_only_missing_chunks_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path)
    seen: list[range] = []

    def interrupted(rows: range, numbers: list[int], advance: Progress) -> pa.Table:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(rows)
        return squares(rows, numbers, advance)

    first = AddedColumns(dataset, tmp_path / "out.parquet", "mark", chunks_of(4))
    with pytest.raises(KeyboardInterrupt):
        first.compute(list, interrupted)
    assert "run the same command to resume" in capsys.readouterr().err
    seen.clear()
    again = AddedColumns(dataset, tmp_path / "out.parquet", "mark", chunks_of(4))
    assert again.compute(list, interrupted)[0] == 3
    assert seen == [range(8, 11)]
    assert "resuming: 8 of 11 prompts are already scored" in capsys.readouterr().err
    assert sum(part.num_rows for part in again.parts()) == ROWS
    AddedColumns(dataset, tmp_path / "out.parquet", "another mark", chunks_of(4)).compute(list, squares)
    assert "starting over" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [UsageError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["prepare", "columns", "write"])
def test_a_failure_anywhere_keeps_the_finished_chunks_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], place: str
) -> None:
    dataset, out, whole = make_dataset(tmp_path), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    first = AddedColumns(dataset, whole, "mark", chunks_of(2))
    first.compute(list, squares)
    first.write()
    broken = {"prepare": list, "columns": squares, "write": Chunks.write}
    steps = dict(broken)

    def fail(*arguments: Any) -> Any:
        row = arguments[1] * 2 if place == "write" else arguments[0][0]
        if row == 6:
            raise kind("the fourth chunk")
        return steps[place](*arguments)

    broken[place] = fail
    monkeypatch.setattr(Chunks, "write", broken["write"])
    added = AddedColumns(dataset, out, "mark", chunks_of(2))
    with pytest.raises(kind, match="the fourth chunk"):
        added.compute(broken["prepare"], broken["columns"])
    assert not any(thread.name.startswith(("ahead", "behind")) for thread in threading.enumerate())
    assert sorted(path.name for path in (tmp_path / "out.jsonl.partial").glob("*.parquet")) == [
        f"chunk-{number:06d}.parquet" for number in range(3)
    ]
    monkeypatch.undo()
    again = AddedColumns(dataset, out, "mark", chunks_of(2))
    assert again.compute(list, squares)[0] == ROWS - 6
    again.write()
    assert out.read_bytes() == whole.read_bytes()


def test_only_the_chunks_at_work_are_held_in_memory(tmp_path: Path) -> None:
    """What was prepared goes with its chunk: the current one, the next one, and one that is being prepared are held."""

    class Prepared:
        def __init__(self, rows: range) -> None:
            self.numbers = list(rows)
            held.add(self)
            counts.append(len(held))

    held: weakref.WeakSet[Prepared] = weakref.WeakSet()
    counts: list[int] = []
    added = AddedColumns(make_dataset(tmp_path), tmp_path / "out.csv", "mark", chunks_of(1))
    added.compute(Prepared, lambda rows, prepared, advance: squares(rows, prepared.numbers, advance))
    assert len(counts) == ROWS
    assert 2 <= max(counts) <= 3
    assert len(held) == 0


def test_the_next_chunk_is_prepared_and_the_last_written_while_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every chunk waits, within its computation, for the next one's start and the end of the last one's writing."""
    prepared, written = ([threading.Event() for _ in range(4)] for _ in range(2))
    write = Chunks.write

    def noted(self: Chunks, number: int, table: pa.Table) -> None:
        write(self, number, table)
        written[number].set()

    def prepare(rows: range) -> list[int]:
        prepared[rows.start // 3].set()
        return list(rows)

    def columns(rows: range, numbers: list[int], advance: Progress) -> pa.Table:
        chunk = rows.start // 3
        assert chunk == 3 or prepared[chunk + 1].wait(SECONDS)
        assert chunk == 0 or written[chunk - 1].wait(SECONDS)
        return squares(rows, numbers, advance)

    monkeypatch.setattr(Chunks, "write", noted)
    added = AddedColumns(make_dataset(tmp_path), tmp_path / "out.csv", "mark", chunks_of(3))
    assert added.compute(prepare, columns)[0] == ROWS
