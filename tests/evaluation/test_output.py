"""Where a scored dataset may be written: not over its input, not over what prepo did not write, one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prepo_cli.chunks import Chunks
from prepo_cli.errors import UsageError
from prepo_cli.evaluation import output as module
from prepo_cli.evaluation.output import chunks_folder, claimed

COLUMN = "ppl_context"


def claim(output: Path, dataset: Path, overwrite: bool = False) -> None:
    with claimed(output, str(dataset), COLUMN, overwrite=overwrite):
        pass


def put(path: Path, text: str = '{"question": "1 + 1?"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


SCORED = '{"question": "1 + 1?", "ppl_context": "{}"}\n'


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda root: (put(root / "d.jsonl"), root / "d.jsonl"),
        lambda root: (put(root / "d.jsonl", SCORED), root / "d.jsonl"),
        lambda root: (put(root / "d.jsonl"), root / "sub" / ".." / "d.jsonl"),
        lambda root: (put(root / "d.jsonl"), link(root, os.symlink)),
        lambda root: (put(root / "d.jsonl"), link(root, os.link)),
        lambda root: (put(root / "set" / "inner" / "d.jsonl", SCORED).parents[1], root / "set" / "inner" / "d.jsonl"),
        lambda root: (link(root, os.symlink, put(root / "d.jsonl")), root / "d.jsonl"),
    ],
)
def test_the_input_is_never_the_output(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]], overwrite: bool
) -> None:
    (tmp_path / "sub").mkdir()
    dataset, output = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    with pytest.raises(UsageError, match=r" is the input.*; choose another --output$"):
        claim(output, dataset, overwrite)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def link(root: Path, how: Callable[[Path, Path], None], to: Path | None = None) -> Path:
    how(to or root / "d.jsonl", root / "link.jsonl")
    return root / "link.jsonl"


def test_a_dataset_among_the_chunks_is_refused(tmp_path: Path) -> None:
    dataset = put(tmp_path / "z.jsonl.partial" / "chunk-000000.jsonl")
    with pytest.raises(UsageError, match="its chunks would overwrite the input"):
        claim(tmp_path / "z.jsonl", dataset)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_only_what_this_command_wrote_is_replaced(tmp_path: Path, ending: str) -> None:
    dataset, output = put(tmp_path / "d.jsonl"), tmp_path / f"out.{ending}"

    def write(*columns: str) -> None:
        if ending == "parquet":
            pq.write_table(pa.table({name: ["x"] for name in columns}), output)
        elif ending == "csv":
            output.write_text(",".join(columns) + "\n" + ",".join("x" * len(columns)) + "\n")
        else:
            output.write_text(json.dumps(dict.fromkeys(columns, "x")) + "\n")

    write("question", "pass_context")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"was not written by this command; move it, or choose another --output"):
            claim(output, dataset, overwrite)
    write("question", COLUMN)
    with pytest.raises(UsageError, match=r"already exists: replace it with --overwrite, or choose another --output"):
        claim(output, dataset)
    claim(output, dataset, overwrite=True)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("content", [b"", b"precious", b"\xff\xfe", b"\0" * 99, b"[" * 99_999, b"[1]\n", b"7", b"PAR1"])
def test_garbage_is_not_ours(tmp_path: Path, ending: str, content: bytes) -> None:
    output = tmp_path / f"out.{ending}"
    output.write_bytes(content)
    with pytest.raises(UsageError, match="was not written by this command"):
        claim(output, put(tmp_path / "d.jsonl"), overwrite=True)
    assert output.read_bytes() == content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder; choose a file name"),
        (lambda path: path.symlink_to("nowhere.jsonl"), "is a broken link"),
        (lambda path: put(chunks_folder(path) / "notes.txt"), "contains files that prepo did not write"),
        (lambda path: put(chunks_folder(path) / "fingerprint"), "contains files that prepo did not write"),
        (lambda path: put(chunks_folder(path)), "contains files that prepo did not write"),
        (lambda path: Chunks(path.parent, "mark").open(), "contains a job's chunks"),
    ],
)
def test_what_stands_in_the_way_is_named_and_stays(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    dataset, output = put(tmp_path / "d.jsonl"), tmp_path / "out" / "x.jsonl"
    output.parent.mkdir()
    make(output)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message):
        claim(output, dataset, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["d.jsonl/x.csv", "none/x.csv"])
def test_where_nothing_can_be_written(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match=r"can't write to .*; choose another --output"):
        claim(tmp_path / place, put(tmp_path / "d.jsonl"))


def test_one_at_a_time_and_no_trace(tmp_path: Path) -> None:
    dataset, output = put(tmp_path / "d.jsonl"), tmp_path / "out.jsonl"
    with claimed(output, str(dataset), COLUMN, overwrite=False):
        with pytest.raises(UsageError, match=r"out\.jsonl is in use by process"):
            claim(output, dataset)
        claim(tmp_path / "other.jsonl", dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


def test_an_output_that_appears_before_the_lock_is_taken_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, output = put(tmp_path / "d.jsonl"), tmp_path / "out.jsonl"

    @contextmanager
    def late(path: Path, what: Path, break_lock: bool) -> Iterator[None]:
        put(output, SCORED)
        yield

    monkeypatch.setattr(module, "locked", late)
    with pytest.raises(UsageError, match="replace it with --overwrite"):
        claim(output, dataset)
