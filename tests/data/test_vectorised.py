"""Column-wise validation finds everything that row-by-row validation finds."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.data.columns import answer_of, messages_of
from prepo_cli.data.vectorised import has_duplicates, rows_to_inspect

PIECES = st.lists(
    st.sampled_from(["", " ", "\u3000", "\n", "7", "#### ", "####", "\\boxed{", "}", "[", "]", "'a'", "x, y"])
)
CELLS = st.one_of(st.none(), PIECES.map("".join), st.text(max_size=5))


def faulty(row: dict[str, Any]) -> bool:
    try:
        messages_of(row["prompt"])
        answer_of(row["answer"])
    except ValueError:
        return True
    return False


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_every_bad_row_is_inspected(cells: list[tuple[str | None, str | None]]) -> None:
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in cells]
    schema = pa.schema({"prompt": pa.string(), "answer": pa.string()})
    found = rows_to_inspect(pa.Table.from_pylist(rows, schema=schema), "prompt", "answer")
    assert {i for i, row in enumerate(rows) if faulty(row)} <= set(found)


def test_plain_rows_are_not_inspected_one_by_one() -> None:
    rows = [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(100)]
    assert not rows_to_inspect(pa.Table.from_pylist(rows), "prompt", "answer")
    messages = pa.Table.from_pylist([{"prompt": [{"role": "user", "content": "x"}], "answer": "1"}])
    assert list(rows_to_inspect(messages, "prompt", "answer")) == [0]
    assert list(rows_to_inspect(pa.Table.from_pylist([{"prompt": "x", "answer": 1.5}]), "prompt", "answer")) == [0]


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1), st.booleans())
def test_duplicates(values: list[int | None], as_text: bool) -> None:
    cells = [None if v is None else str(v) if as_text else v for v in values]
    kind = datasets.Value("string" if as_text else "int64")
    table = datasets.Dataset.from_dict({"id": cells}, features=datasets.Features({"id": kind}))
    known = [v for v in values if v is not None]
    assert has_duplicates(table, "id") == (len(set(known)) < len(known))
