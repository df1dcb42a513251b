"""verl's training set as selectors see it: rows as prompts, in the order in which verl itself would take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from omegaconf import DictConfig
from verl.trainer.ppo.utils import create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from prepo_cli.data.columns import NUMBER_COLUMNS, number_of
from prepo_cli.data.rendering import Rendered, Renderer
from prepo_cli.data.stream import PromptStream, Rows
from prepo_cli.errors import UsageError
from strategies.types import Prompt

SOURCES = ("data_source", "source")
"""Columns that say where a row comes from; the first is verl's own name."""
CACHED_ROWS = 100_000
"""Prompts whose tokens are kept."""


class TrainingSet:
    """Rows of verl's dataset by number.

    Strategies see the columns `id`, `data_source` or `source`, `difficulty`, `rank`, `ppl` and `pass_rate`, and the
    length of prompts of plain text. A dataset class of the user's own that keeps no table as `dataframe` has none of
    them.
    """

    def __init__(self, dataset: Any, data_config: DictConfig, tokenizer: Any) -> None:
        self._dataset, self._data_config, self._tokenizer = dataset, data_config, tokenizer
        table = getattr(dataset, "dataframe", None)
        present = [] if table is None else table.column_names
        names = [name for name in ("id", *SOURCES, *NUMBER_COLUMNS) if name in present]
        self._source = next((name for name in SOURCES if name in names), None)
        self.columns = frozenset(names) - set(SOURCES) | ({"source"} if self._source else set())
        self._table = None if table is None else table.select_columns([*names, data_config.prompt_key])
        media = {data_config.get(f"{kind}_key", f"{kind}s") for kind in ("image", "video", "audio")}
        self._has_lengths = bool(present) and not media & set(present) and tokenizer.is_fast
        self.rendered = lru_cache(maxsize=CACHED_ROWS)(self._render)

    def __len__(self) -> int:
        return len(self._dataset)

    def prompt(self, index: int) -> Prompt:
        """The row as strategies see it."""
        row = {} if self._table is None else self._table[index]
        numbers: dict[str, Any] = {name: number_of(row[name], name) for name in NUMBER_COLUMNS if name in row}
        return Prompt(
            index=index,
            id=str(row.get("id", index)),
            source=None if self._source is None else str(row[self._source]),
            num_tokens=len(self.rendered(index).token_ids) if self._has_lengths else None,
            **numbers,
        )

    def _render(self, index: int) -> Rendered:
        """The row's prompt as tokens."""
        if self._table is None:
            return self._renderer(self._dataset[index]["raw_prompt"])
        return self._renderer(self._table[index][self._data_config.prompt_key])

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self._tokenizer, template_kwargs=self._data_config.get("apply_chat_template_kwargs", {}))

    def batch(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """The rows of these prompts as verl's dataloader collates them."""
        columns: dict[str, Any] = collate_fn([self._dataset[prompt.index] for prompt in prompts])
        return columns

    def stream(self, seed: int) -> PromptStream:
        """The rows in verl's own order, epoch by epoch.

        Raises:
            UsageError: there are fewer rows than a step takes.
        """
        step = self._data_config.get("gen_batch_size", None) or self._data_config.train_batch_size
        if len(self) < step:
            raise UsageError(f"the training set has {len(self):,} rows, fewer than the {step:,} of a step; add rows")
        return PromptStream(len(self), seed, self.prompt, Order(self._data_config, self._dataset, step))


class Order:
    """The row numbers of an epoch as verl's dataloader takes them, without the incomplete batch at the end."""

    def __init__(self, data_config: DictConfig, dataset: Any, batch: int) -> None:
        self._config, self._dataset, self._batch = data_config, dataset, batch
        self._epochs, self._next = self._draw(), 0

    def __call__(self, epoch: int) -> Rows:
        """All rows of the epoch; an epoch's order follows from those before it, so going back starts anew."""
        if epoch < self._next:
            self._epochs, self._next = self._draw(), 0
        while True:
            order = next(self._epochs)
            self._next += 1
            if self._next > epoch:
                return order

    def _draw(self) -> Iterator[Rows]:
        sampler = create_rl_sampler(self._config, self._dataset)
        whole = len(self._dataset) // self._batch * self._batch
        while True:
            yield np.fromiter(iter(sampler), dtype=np.int32)[:whole]
