"""Hold out a share of the training prompts for evaluation.

Which ones depends on a hash of their ids, or of their texts where they have none: not on the order of the rows, and
not on the seed. A prompt that occurs in several rows counts once. If it is held out, none of its rows is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prepo_cli.data.columns import cell, messages_of
from prepo_cli.data.fingerprint import MISSING, cells
from prepo_cli.data.loading import PromptDataset, Rows

Hashes = npt.NDArray[np.uint64]
FEWEST = 50
"""Prompts that are held out of a set that has twice as many, however small the share."""


@dataclass(frozen=True)
class Holdout:
    """A dataset split in two; `repeats` counts rows left out because they repeat a held-out prompt."""

    train: PromptDataset
    held_out: PromptDataset
    evaluated: PromptDataset
    """The held-out prompts that evaluations answer."""
    repeats: int


def hold_out(dataset: PromptDataset, share: float, limit: int | None = None) -> Holdout | None:
    """Split a dataset; evaluations answer at most `limit` held-out prompts. None if it has a single prompt."""
    held = held_out_rows(*_hashes(dataset), share)
    if held is None:
        return None
    train, rows = held
    return Holdout(
        train=dataset.subset(train),
        held_out=dataset.subset(np.sort(rows)),
        evaluated=dataset.subset(np.sort(rows[:limit])),
        repeats=len(dataset) - len(train) - len(rows),
    )


def held_out_rows(id_N: Hashes, text_N: Hashes, share: float) -> tuple[Rows, Rows] | None:
    """Rows to train on in order, and rows to hold out in the order of the hashes of their ids.

    Rows of the same text are one prompt, which goes by the smallest hash of its ids.

    >>> train, held_out = held_out_rows(np.array([7, 2, 9, 4], np.uint64), np.array([1, 2, 2, 3], np.uint64), 0.1)
    >>> train.tolist(), held_out.tolist()
    ([0, 3], [1])
    """
    by_id_N = np.argsort(id_N, kind="stable")
    _, first_P = np.unique(text_N[by_id_N], return_index=True)
    one_of_each_P = by_id_N[np.sort(first_P)]
    rows = one_of_each_P[: held_out_count(len(one_of_each_P), share)]
    return (np.flatnonzero(~np.isin(text_N, text_N[rows])), rows) if len(rows) else None


def held_out_count(prompts: int, share: float) -> int:
    """How many prompts are held out: the share, but at least `FEWEST`, and at most half.

    >>> [held_out_count(prompts, 0.05) for prompts in (1, 60, 500, 20_000)]
    [0, 30, 50, 1000]
    """
    return min(max(FEWEST, round(share * prompts)), prompts // 2)


def _hashes(dataset: PromptDataset) -> tuple[Hashes, Hashes]:
    """Hashes of the rows' ids and of their prompts [N]; a row without an id has the prompt's for both."""
    columns = [dataset.prompt_column, *(["id"] if "id" in dataset.columns else [])]
    ids, texts = [], []
    for batch in dataset.batches(columns):
        texts.append(_hashed(_prompts(batch, dataset.prompt_column)))
        ids.append(_hashed(cells(batch, "id")) if "id" in columns else texts[-1])
    id_N, text_N = np.concatenate(ids), np.concatenate(texts)
    return np.where(id_N == _hashed([MISSING]), text_N, id_N), text_N


def _prompts(batch: pa.Table, column: str) -> Sequence[bytes]:
    """A column's prompts as bytes; messages by their roles and contents, whatever else is stored with them."""
    if column in batch.column_names and not pa.types.is_nested(batch[column].type):
        return cells(batch, column)
    rows = (messages_of(cell(row, column)) for row in batch.select([column.partition(".")[0]]).to_pylist())
    return ["\0".join(f"{m['role']}\0{m['content']}" for m in messages).encode() for messages in rows]


def _hashed(texts: Iterable[bytes]) -> Hashes:
    return np.frombuffer(b"".join(blake2b(text, digest_size=8).digest() for text in texts), dtype="<u8")
