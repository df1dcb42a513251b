"""What a checkpoint remembers of its data, so that a changed dataset or tokenizer is not taken for the run's own.

Rows are known by a CRC-32 each: four bytes a prompt, and enough to name the first row that an edit has changed. The
tokenizer and what it renders with are known by digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prepo_cli.data.columns import cell
from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.text import brief

Checksums = npt.NDArray[np.uint32]
SAMPLED_TOKENS = 2000
MISSING = b"\xfe"
"""Stands for a cell that is missing; no UTF-8 text holds that byte."""
CURE = "resume with the one the run started with, or start over with --overwrite"


def fingerprint(datasets: Mapping[str, PromptDataset], renderer: Renderer, **more: str) -> dict[str, Any]:
    """Checksums of each dataset's rows [N] by what messages call it, and digests of what renders them.

    `more` are digests of other things that must not change between a checkpoint and the run that resumes from it.
    """
    rows = {name: row_checksums(dataset) for name, dataset in datasets.items()}
    return {"rows": rows, "digests": {**rendering_digests(renderer), **more}}


def refuse_changes(saved: Mapping[str, Any], now: Mapping[str, Any], datasets: Mapping[str, PromptDataset]) -> None:
    """Compare a checkpoint's fingerprint with the run's.

    Raises:
        UsageError: they differ; the message names what does, for a dataset the first row.
    """
    for name, digest in now["digests"].items():
        if saved["digests"].get(name) != digest:
            raise UsageError(f"the {name.replace('_', ' ')} differs from the checkpoint's; {CURE}")
    for name, rows in now["rows"].items():
        before, dataset = saved["rows"][name], datasets[name]
        if len(before) != len(rows):
            raise UsageError(
                f"the checkpoint's {name} has {len(before):,} prompts, {dataset.name} {len(rows):,}; {CURE}"
            )
        changed = np.flatnonzero(before != rows)
        if len(changed):
            first = int(changed[0])
            row = f"{dataset.place(first)} (id '{brief(dataset.prompt(first).id)}')"
            others = f" ({len(changed) - 1:,} more changed)" if len(changed) > 1 else ""
            raise UsageError(f"{row} differs from the checkpoint's {name} in id, prompt or answer{others}; {CURE}")


def row_checksums(dataset: PromptDataset) -> Checksums:
    """CRC-32 of every usable row's id, prompt and answer [N]; how the file stores them does not matter."""
    columns = [column for column in (dataset.prompt_column, dataset.answer_column) if column is not None]
    columns += ["id"] if "id" in dataset.columns else []
    parts = []
    for batch in dataset.batches(columns):
        rows = zip(*(cells(batch, column) for column in columns), strict=True)
        # No UTF-8 text holds the byte between the cells.
        parts.append(np.fromiter((crc32(b"\xff".join(row)) for row in rows), np.uint32, len(batch)))
    return np.concatenate(parts)


def rendering_digests(renderer: Renderer) -> dict[str, str]:
    """Digests of the tokenizer, its chat template, and the system prompt and arguments that the template gets.

    The tokenizer is represented by its vocabulary, its special tokens and its ids for a sample of its own tokens: its
    files change with the library's version.
    """
    tokenizer = renderer.tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items())
    sample = " ".join(token for token, _ in vocabulary[:: len(vocabulary) // SAMPLED_TOKENS + 1])
    special = [tokenizer.bos_token, tokenizer.eos_token, sorted(tokenizer.all_special_tokens)]
    return {
        "tokenizer": _digest([vocabulary, special, tokenizer(sample, add_special_tokens=True)["input_ids"]]),
        "chat_template": _digest(tokenizer.chat_template),
        "system_prompt": _digest(renderer.system_prompt),
        "chat_template_kwargs": _digest(renderer.template_kwargs),
    }


def _digest(value: Any) -> str:
    content = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def cells(batch: pa.Table, column: str) -> Sequence[bytes]:
    """A column's cells as bytes: text and whole numbers as their text, anything else as JSON, nothing as `MISSING`."""
    if column in batch.column_names and pa.types.is_integer(batch[column].type):
        batch = batch.set_column(batch.column_names.index(column), column, batch[column].cast(pa.string()))
    if column in batch.column_names and pa.types.is_string(batch[column].type):
        return [MISSING if text is None else text for text in batch[column].cast(pa.binary()).to_pylist()]
    rows = batch.select([column.partition(".")[0]]).to_pylist()
    return [_bytes(cell(row, column)) for row in rows]


def _bytes(value: Any) -> bytes:
    if value is None:
        return MISSING
    return value.encode() if isinstance(value, str) else json.dumps(value, default=str).encode()
