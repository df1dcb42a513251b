"""Load prompts and gold answers, and validate every row before training starts.

Which columns are used and how cells are read is in columns.py, where rows come from in tables.py, what makes a row bad
in validation.py. Rows are fetched on demand; the data stays memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import lru_cache
from os.path import exists
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prepo_cli.data.columns import (
    ANSWER_COLUMNS,
    ASSISTANT,
    LABEL_COLUMNS,
    NUMBER_COLUMNS,
    PROMPT_COLUMNS,
    answer_of,
    cell,
    choose,
    messages_of,
    number_of,
)
from prepo_cli.data.short_names import by_short_name
from prepo_cli.data.tables import Table, load_folder_or_hub, load_table
from prepo_cli.data.validation import bad_rows
from prepo_cli.data.vectorised import holds_numbers
from prepo_cli.errors import UsageError
from prepo_cli.rewards.messages import Prompt as Conversation
from prepo_cli.rewards.messages import question_of
from prepo_cli.sections import PromptsConfig
from prepo_cli.terminal import progress
from strategies.types import Prompt

Rows = npt.NDArray[np.int64]
LARGE = 200_000
"""Validation shows a progress bar from this many rows on."""
CACHED_ROWS = 8192
ROWS_AT_ONCE = 100_000


class PromptDataset:
    """Prompts with gold answers, indexed by row number."""

    def __init__(
        self,
        name: str,
        table: Any,
        prompt_column: str,
        answer_column: str | None,
        place: Callable[[int], str] | None = None,
        need_answer: bool = True,
    ) -> None:
        """`place` is what messages call a row of the table, such as its file and line.

        Without `need_answer`, rows may lack an answer, or hold something else in its column.
        """
        self.name, self.table = name, table
        self._place = place or (lambda row: f"{name}, row {row + 1}")
        self.prompt_column, self.answer_column, self.need_answer = prompt_column, answer_column, need_answer
        self.notes = [f"prompts from column '{prompt_column}'"]
        if answer_column and need_answer:
            self.notes.append(f"answers from column '{answer_column}'")
        optional = [name for name in (*LABEL_COLUMNS, *NUMBER_COLUMNS) if name in table.column_names]
        labels = [name for name in optional if name in NUMBER_COLUMNS and not holds_numbers(table, name)]
        self.columns = frozenset(optional) - set(labels)
        self.notes += [f"column '{name}' is not used: it contains no numbers" for name in labels]
        self.skipped = 0
        self._rows: Rows | None = None
        self._row = lru_cache(maxsize=CACHED_ROWS)(self._fetch)

    def __len__(self) -> int:
        return len(self.table) if self._rows is None else len(self._rows)

    def prompt(self, index: int) -> Prompt:
        """The row as strategies see it; its id defaults to its number in the whole table."""
        row = self._row(index)
        numbers = {name: number_of(row[name], name) for name in NUMBER_COLUMNS if name in self.columns}
        return Prompt(
            index=index,
            id=str(self._table_row(index) if row.get("id") is None else row["id"]),
            source=None if row.get("source") is None else str(row["source"]),
            difficulty=numbers.get("difficulty"),
            rank=numbers.get("rank"),
            ppl=numbers.get("ppl"),
            pass_rate=numbers.get("pass_rate"),
        )

    def messages(self, index: int) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return messages_of(cell(self._row(index), self.prompt_column))

    def question(self, index: int) -> str:
        """The text of the last user message."""
        return question_of(self.messages(index))

    def given(self, index: int) -> Conversation:
        """The prompt as the dataset has it: text, or chat messages."""
        prompt = cell(self._row(index), self.prompt_column)
        return prompt if isinstance(prompt, str) else messages_of(prompt)

    def answer(self, index: int) -> str | list[str] | None:
        """The gold answer, or a list of them; None where there is none and none is needed."""
        if self.answer_column is None:
            return None
        try:
            return answer_of(cell(self._row(index), self.answer_column))
        except ValueError:
            if self.need_answer:
                raise
            return None

    def fields(self, index: int) -> dict[str, Any]:
        """All columns of the row for reward functions, with `answer` set to the gold answer if there is one."""
        row, answer = dict(self._row(index)), self.answer(index)
        return row if answer is None else {**row, "answer": answer}

    def subset(self, indices: Rows) -> PromptDataset:
        """These prompts alone, in ascending order: counted anew, but with their own ids and places."""
        part = copy(self)
        part._rows = indices if self._rows is None else self._rows[indices]
        part._row = lru_cache(maxsize=CACHED_ROWS)(part._fetch)
        return part

    def part(self, rows: range, columns: Iterable[str] | None = None) -> pa.Table:
        """These usable rows, all of their columns or only some, as an Arrow table."""
        table = (self.table if columns is None else self.table.select_columns(list(columns))).with_format("arrow")
        if self._rows is None:
            return table[rows.start : rows.stop]
        # Taken from a slice, they need no index of the whole table and are read far faster than scattered rows.
        numbers = self._rows[rows.start : rows.stop]
        return table[int(numbers[0]) : int(numbers[-1]) + 1].take(numbers - numbers[0])

    def batches(self, columns: Iterable[str]) -> Iterator[pa.Table]:
        """The usable rows of these columns, in Arrow tables of up to `ROWS_AT_ONCE`; fields come with their columns.

        Slices of the whole table, of which rows are then taken, are read far faster than rows scattered over it.
        """
        narrow = self.table.select_columns(list(dict.fromkeys(name.partition(".")[0] for name in columns)))
        for start in range(0, len(narrow), ROWS_AT_ONCE):
            end = min(start + ROWS_AT_ONCE, len(narrow))
            if self._rows is None:
                yield narrow.with_format("arrow")[start:end]
                continue
            first, last = np.searchsorted(self._rows, (start, end))
            if last > first:
                yield narrow.with_format("arrow")[start:end].take(self._rows[first:last] - start)

    def place(self, index: int) -> str:
        """What messages call the row: its file, and its number there."""
        return self._place(self._table_row(index))

    def check(self, skip_bad_rows: bool) -> None:
        """Validate every row.

        Raises:
            UsageError: a row is bad (unless `skip_bad_rows`), or no usable row is left.
        """
        if len(self.table) >= LARGE:
            with progress(f"check {self.name}", len(self.table), "rows") as advance:
                self._check(skip_bad_rows, advance)
        else:
            self._check(skip_bad_rows, lambda rows: None)

    def _check(self, skip_bad_rows: bool, advance: Callable[[int], None]) -> None:
        bad: list[int] = []
        answer_column = self.answer_column if self.need_answer else None
        for index, fault in bad_rows(self.table, self.prompt_column, answer_column, self.columns, advance):
            if not skip_bad_rows:
                raise UsageError(f"{self._place(index)}: {fault}; fix it, or skip bad rows with --skip-bad-rows")
            bad.append(index)
        if bad:
            self._rows = np.delete(np.arange(len(self.table)), bad)
            self.skipped += len(bad)
        if self.skipped:
            self.notes.append(f"{self.skipped:,} bad {'row' if self.skipped == 1 else 'rows'} skipped")
        if not len(self):
            raise UsageError(f"{self.name} has no usable rows; run without --skip-bad-rows to see why")

    def _fetch(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.table[self._table_row(index)]
        return row

    def _table_row(self, index: int) -> int:
        return int(index if self._rows is None else self._rows[index])


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

    Answers are validated if they are needed, or their column is given; else they are used where there are any.

    Raises:
        UsageError: the dataset is missing, empty or unreadable, lacks a prompt or answer column, or has a bad row.
    """
    known = None if exists(name) else by_short_name(name)
    if known is None:
        text = (*LABEL_COLUMNS, *ANSWER_COLUMNS, *([answer_column] if answer_column else []))
        table = load_table(name, split, skip_bad_rows, dataset_config, text)
    else:
        rows = load_folder_or_hub(known.hub_id, known.split_for(split), dataset_config or known.config)
        table = Table(rows, name)
        prompt_column, answer_column = prompt_column or known.prompt_column, answer_column or known.answer_column
    rows = table.rows if limit is None else table.rows.select(range(min(limit, len(table.rows))))
    if not len(rows):
        raise UsageError(f"{name} is empty")
    columns = _all_columns(rows)
    prompts = choose(prompt_column, PROMPT_COLUMNS, columns, "prompt", name)
    need_answer = need_answer or answer_column is not None
    use_answer = need_answer or not set(ANSWER_COLUMNS).isdisjoint(columns)
    answers = choose(answer_column, ANSWER_COLUMNS, columns, "answer", name) if use_answer else None
    dataset = PromptDataset(name, rows, prompts, answers, table.place, need_answer)
    dataset.skipped = table.bad
    dataset.check(skip_bad_rows)
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
    """Column names, with the fields of nested columns, and the answer that ends a conversation, as `column.field`."""
    names, first = [], table[0]
    for name, feature in table.features.items():
        names.append(name)
        if isinstance(feature, dict):
            names += [f"{name}.{field}" for field in feature]
        elif cell(first, f"{name}.{ASSISTANT}") is not None:
            names.append(f"{name}.{ASSISTANT}")
    return names
