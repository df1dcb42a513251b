"""Load prompts and gold answers, and validate every row before training starts.

Which columns are used and how cells are read is in columns.py, file formats are in tables.py. Rows are validated in
Arrow batches and fetched on demand; the data stays memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.data.columns import (
    ANSWER_COLUMNS,
    OPTIONAL_COLUMNS,
    PROMPT_COLUMNS,
    answer_of,
    choose,
    messages_of,
    question_of,
)
from prepo_cli.data.short_names import by_short_name
from prepo_cli.data.tables import load_folder_or_hub, load_table
from prepo_cli.data.vectorised import has_duplicates, rows_to_inspect
from prepo_cli.errors import UsageError
from prepo_cli.sections import PromptsConfig
from prepo_cli.terminal import progress
from strategies.types import Prompt

ROWS_PER_CHECK = 10_000
LARGE = 200_000
"""Validation shows a progress bar from this many rows on."""
CACHED_ROWS = 8192


class PromptDataset:
    """Prompts with gold answers, indexed by row number."""

    def __init__(self, name: str, table: Any, prompt_column: str, answer_column: str | None) -> None:
        self.name, self.table = name, table
        self.prompt_column, self.answer_column = prompt_column, answer_column
        self.notes = [f"prompts from column '{prompt_column}'"]
        if answer_column:
            self.notes.append(f"answers from column '{answer_column}'")
        self.columns = frozenset(c for c in OPTIONAL_COLUMNS if c in table.column_names)
        self.skipped = 0
        self._rows: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._row = lru_cache(maxsize=CACHED_ROWS)(self._fetch)

    def __len__(self) -> int:
        return len(self.table) if self._rows is None else len(self._rows)

    def prompt(self, index: int) -> Prompt:
        """The row as strategies see it; its id defaults to the row number."""
        row = self._row(index)
        return Prompt(
            index=index,
            id=str(index if row.get("id") is None else row["id"]),
            source=None if row.get("source") is None else str(row["source"]),
            difficulty=_number(row.get("difficulty")),
            rank=_number(row.get("rank")),
            ppl=_number(row.get("ppl")),
            pass_rate=_number(row.get("pass_rate")),
        )

    def messages(self, index: int) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return messages_of(_cell(self._row(index), self.prompt_column))

    def question(self, index: int) -> str:
        """The text of the last user message."""
        return question_of(self.messages(index))

    def answer(self, index: int) -> str | list[str] | None:
        """The gold answer, or a list of them."""
        return None if self.answer_column is None else answer_of(_cell(self._row(index), self.answer_column))

    def fields(self, index: int) -> dict[str, Any]:
        """All columns of the row for reward functions, with `answer` set to the gold answer."""
        row = dict(self._row(index))
        return row if self.answer_column is None else {**row, "answer": self.answer(index)}

    def usable(self) -> Any:
        """The rows that passed validation, as a `datasets.Dataset`."""
        return self.table if self._rows is None else self.table.select(self._rows)

    def check(self, skip_bad_rows: bool, where: str) -> None:
        """Validate every row; `where` is what error messages call a row.

        Raises:
            UsageError: a row is bad (unless `skip_bad_rows`), or no usable row is left.
        """
        if len(self.table) >= LARGE:
            with progress(f"check {self.name}", len(self.table), "rows") as advance:
                self._check(skip_bad_rows, where, advance)
        else:
            self._check(skip_bad_rows, where, lambda rows: None)

    def _check(self, skip_bad_rows: bool, where: str, advance: Callable[[int], None]) -> None:
        bad: list[int] = []
        seen: set[str] | None = set() if "id" in self.columns and has_duplicates(self.table, "id") else None
        for index, row in self._rows_to_inspect(seen is not None, advance):
            try:
                messages_of(_cell(row, self.prompt_column))
                if self.answer_column is not None:
                    answer_of(_cell(row, self.answer_column))
                if seen is not None and row["id"] is not None:
                    if str(row["id"]) in seen:
                        raise ValueError(f"duplicate id '{row['id']}'")
                    seen.add(str(row["id"]))
            except ValueError as fault:
                if not skip_bad_rows:
                    raise UsageError(
                        f"{self.name}, {where} {index + 1}: {fault}; fix it, or skip bad rows with --skip-bad-rows"
                    ) from None
                bad.append(index)
        if bad:
            self._rows = np.delete(np.arange(len(self.table)), bad)
            self.skipped += len(bad)
        if self.skipped:
            self.notes.append(f"{self.skipped} bad rows skipped")
        if not len(self):
            raise UsageError(f"{self.name} has no usable rows; run without --skip-bad-rows to see why")

    def _rows_to_inspect(self, every_row: bool, advance: Callable[[int], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows to validate in Python; in text columns these are only blank cells and answers that need parsing."""
        outer = [column.split(".")[0] for column in (self.prompt_column, self.answer_column) if column]
        narrow = self.table.select_columns(list(dict.fromkeys([*outer, *({"id"} & self.columns)])))
        for start in range(0, len(narrow), ROWS_PER_CHECK):
            batch = narrow.with_format("arrow")[start : start + ROWS_PER_CHECK]
            rows = range(len(batch)) if every_row else rows_to_inspect(batch, self.prompt_column, self.answer_column)
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
    """Load and validate prompts from 'embedded', a file, a folder, a short name or the Hub.

    Raises:
        UsageError: the dataset is missing, empty or unreadable, lacks a prompt or answer column, or has a bad row.
    """
    known = None if Path(name).exists() else by_short_name(name)
    if known is None:
        table, broken = load_table(name, split, skip_bad_rows, dataset_config)
    else:
        table, broken = load_folder_or_hub(known.hub_id, known.split_for(split), dataset_config or known.config), 0
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


def load_configured_prompts(
    config: PromptsConfig,
    *,
    answer_column: str | None = None,
    need_answer: bool = True,
    dataset_config: str | None = None,
) -> PromptDataset:
    """The prompts that a section of the configuration names; raises UsageError as `load_prompts` does."""
    return load_prompts(
        config.dataset_name,
        split=config.split,
        limit=config.limit,
        prompt_column=config.prompt_column,
        answer_column=answer_column,
        skip_bad_rows=config.skip_bad_rows,
        need_answer=need_answer,
        dataset_config=dataset_config,
    )


def _all_columns(table: Any) -> list[str]:
    """Column names, with the fields of nested columns as `column.field`."""
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
