"""Datasets: files, folders and hub names through `datasets`, rows fetched when they are asked for.

What the rows mean is said in columns.py. All rows are checked once at start, in Arrow batches; the data itself stays
memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from prepo_cli.config import ASSETS
from prepo_cli.data.columns import (
    ANSWER_COLUMNS,
    OPTIONAL_COLUMNS,
    PROMPT_COLUMNS,
    answer_of,
    choose,
    messages_of,
    question_of,
)
from prepo_cli.data.named import named
from prepo_cli.data.vectorised import has_duplicates, suspicious
from prepo_cli.errors import UsageError
from prepo_cli.sections import EMBEDDED
from prepo_cli.terminal import progress
from strategies.types import Prompt

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
CHECKED_AT_ONCE = 10_000
LARGE = 200_000
"""Rows from which on the check shows its progress."""
RECENT_ROWS = 8192


class PromptDataset:
    """Prompts with gold answers, by row number."""

    def __init__(self, name: str, table: Any, prompt_column: str, answer_column: str | None) -> None:
        self.name, self.table = name, table
        self.prompt_column, self.answer_column = prompt_column, answer_column
        self.notes = [f"prompts from column '{prompt_column}'"]
        if answer_column:
            self.notes.append(f"answers from '{answer_column}'")
        self.columns = frozenset(c for c in OPTIONAL_COLUMNS if c in table.column_names)
        self.skipped = 0
        self._rows: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._row = lru_cache(maxsize=RECENT_ROWS)(self._fetch)

    def __len__(self) -> int:
        return len(self.table) if self._rows is None else len(self._rows)

    def prompt(self, index: int) -> Prompt:
        """The row as strategies see it; a row without an id has its number for one."""
        row = self._row(index)
        return Prompt(
            index=index,
            id=str(index if row.get("id") is None else row["id"]),
            source=None if row.get("source") is None else str(row["source"]),
            **{name: _number(row.get(name)) for name in ("difficulty", "rank", "ppl")},
        )

    def messages(self, index: int) -> list[dict[str, str]]:
        """Chat messages."""
        return messages_of(_cell(self._row(index), self.prompt_column))

    def question(self, index: int) -> str:
        """Text of the last user message."""
        return question_of(self.messages(index))

    def answer(self, index: int) -> str | list[str] | None:
        """The gold answer, or a list of them."""
        return None if self.answer_column is None else answer_of(_cell(self._row(index), self.answer_column))

    def fields(self, index: int) -> dict[str, Any]:
        """All columns of the row, `answer` being the gold answer: what reward functions are given."""
        row = dict(self._row(index))
        return row if self.answer_column is None else {**row, "answer": self.answer(index)}

    def usable(self) -> Any:
        """The rows as a `datasets.Dataset`, bad ones left out."""
        return self.table if self._rows is None else self.table.select(self._rows)

    def check(self, skip_bad_rows: bool, where: str) -> None:
        """Look at every row; leave bad ones out if so asked.

        Raises:
            UsageError: the first bad row, an id that comes twice, or no row left.
        """
        if len(self.table) >= LARGE:
            with progress(f"check {self.name}", len(self.table), "rows") as advance:
                self._check(skip_bad_rows, where, advance)
        else:
            self._check(skip_bad_rows, where, lambda rows: None)

    def _check(self, skip_bad_rows: bool, where: str, advance: Callable[[int], None]) -> None:
        bad: list[int] = []
        seen: set[str] | None = set() if "id" in self.columns and has_duplicates(self.table, "id") else None
        for index, row in self._suspects(seen is not None, advance):
            try:
                messages_of(_cell(row, self.prompt_column))
                if self.answer_column is not None:
                    answer_of(_cell(row, self.answer_column))
                if seen is not None and row["id"] is not None:
                    if str(row["id"]) in seen:
                        raise ValueError(f"the id '{row['id']}' stood before")
                    seen.add(str(row["id"]))
            except ValueError as fault:
                if not skip_bad_rows:
                    raise UsageError(
                        f"{self.name}, {where} {index + 1}: {fault}; mend it or go on without with --skip-bad-rows"
                    ) from None
                bad.append(index)
        if bad:
            self._rows = np.delete(np.arange(len(self.table)), bad)
            self.skipped += len(bad)
        if self.skipped:
            self.notes.append(f"{self.skipped} bad rows left out")
        if not len(self):
            raise UsageError(f"{self.name} holds no usable rows")

    def _suspects(self, all_of_them: bool, advance: Callable[[int], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows that Python must look at: with texts in both columns only blank ones and answers to be taken apart."""
        tops = [column.split(".")[0] for column in (self.prompt_column, self.answer_column) if column]
        narrow = self.table.select_columns(list(dict.fromkeys([*tops, *({"id"} & self.columns)])))
        for start in range(0, len(narrow), CHECKED_AT_ONCE):
            batch = narrow.with_format("arrow")[start : start + CHECKED_AT_ONCE]
            rows = range(len(batch)) if all_of_them else suspicious(batch, self.prompt_column, self.answer_column)
            for offset, row in zip(rows, batch.take(np.asarray(rows, dtype=np.int64)).to_pylist(), strict=True):
                yield start + offset, row
            advance(len(batch))

    def _fetch(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.table[int(index if self._rows is None else self._rows[index])]
        return row


def load_prompts(
    name: str,
    *,
    split: str = "train",
    limit: int | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    skip_bad_rows: bool = False,
    need_answer: bool = True,
    dataset_config: str | None = None,
) -> PromptDataset:
    """Load prompts from 'embedded', a file, a folder, a short name or the hub.

    Raises:
        UsageError: no such dataset, unreadable, no prompt or answer column, a bad row, nothing in it.
    """
    known = None if Path(name).exists() else named(name)
    if known is None:
        table, broken = load_table(name, split, skip_bad_rows, dataset_config)
    else:
        table, broken = _load_named(known.hub_id, known.split_for(split), dataset_config or known.config), 0
        prompt_column, answer_column = prompt_column or known.prompt_column, answer_column or known.answer_column
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    if not len(table):
        raise UsageError(f"{name} is empty")
    columns = _all_columns(table)
    prompts = choose(prompt_column, PROMPT_COLUMNS, columns, "prompt", name)
    answers = choose(answer_column, ANSWER_COLUMNS, columns, "answer", name) if need_answer or answer_column else None
    dataset = PromptDataset(name, table, prompts, answers)
    dataset.skipped = broken
    dataset.check(skip_bad_rows, "line" if name.endswith((".jsonl", ".json")) else "row")
    return dataset


def load_table(
    name: str, split: str, skip_bad_rows: bool = False, dataset_config: str | None = None
) -> tuple[Any, int]:
    """The dataset as a `datasets.Dataset`, and how many unreadable lines were left out."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said in one line, below
    path = Path(name)
    if name == EMBEDDED:
        path = ASSETS / "task" / f"{split}.jsonl"
        if not path.is_file():
            raise UsageError(f"the embedded task has no split '{split}'; there are: train, test")
    elif not path.exists() and (path.suffix in FORMATS or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"no such dataset file: {name}")
    if not path.is_file():
        return _load_named(name, split, dataset_config), 0
    if path.suffix not in FORMATS:
        raise UsageError(f"{name}: can't tell the format of '{path.suffix}'; known: {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise UsageError(f"{name} is empty")
    try:
        return datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train"), 0
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        if path.suffix != ".jsonl":
            raise UsageError(f"{name} can't be read: {_reason(error)}") from error
        with TemporaryDirectory(prefix="prepo-") as folder:
            good = Path(folder) / path.name
            broken, first = _copy_readable_lines(path, good)
            if first is None:
                raise UsageError(f"{name} can't be read: {_reason(error)}") from error
            if not skip_bad_rows:
                raise UsageError(f"{name}, {first}; mend it or go on without with --skip-bad-rows") from error
            return datasets.load_dataset("json", data_files=str(good), split="train"), broken


def _load_named(name: str, split: str, config: str | None = None) -> Any:
    """A folder or a hub dataset."""
    import datasets

    if Path(name).is_dir() and (Path(name) / "state.json").is_file():
        return datasets.load_from_disk(name)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client and the builders raise a dozen kinds, all meaning 'not to be had'
        raise UsageError(f"dataset '{name}' (split {split}) can't be loaded: {_reason(error)}") from error


def _copy_readable_lines(path: Path, to: Path) -> tuple[int, str | None]:
    """Copy the lines that are JSON objects; returns how many are not, and the first of these with its fault."""
    broken, first = 0, None
    with path.open(encoding="utf-8", errors="replace") as lines, to.open("w", encoding="utf-8") as good:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fault = None if isinstance(json.loads(line), dict) else "not a JSON object"
            except json.JSONDecodeError as error:
                fault = f"{error.msg} at column {error.colno}"
            if fault is None:
                good.write(line if line.endswith("\n") else line + "\n")
            else:
                broken += 1
                first = first or f"line {number}: {fault}"
    return broken, first


def _all_columns(table: Any) -> list[str]:
    """Column names, fields of nested ones with a dot."""
    names = []
    for name, feature in table.features.items():
        names.append(name)
        if isinstance(feature, dict):
            names += [f"{name}.{field}" for field in feature]
    return names


def _cell(row: dict[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    return (row[outer] or {}).get(inner)


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _reason(error: BaseException) -> str:
    deepest = error.__cause__ or error
    return " ".join(str(deepest).split())[:200]
