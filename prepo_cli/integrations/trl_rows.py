"""The rows of TRL's generated batches, brought together from rounds and processes and dealt out again.

A batch is a dict of tensors with a row for each rollout (`FIELDS`): prompts padded on the left, completions on the
right. Rows without effect fill up the last ones, since TRL needs as many rows in each process and micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import pad

from prepo_cli.errors import RunError
from prepo_cli.integrations.trl_hooks import FIELDS

Rows = dict[str, Tensor]
PADDED_WITH = {"tool_mask": 1}
"""What TRL pads with; ids with the tokenizer's padding token, all others with 0."""


class Table:
    """All rows that a step generated, the same in every process, in the order in which they were generated."""

    def __init__(self, accelerator: Accelerator, pad_token_id: int) -> None:
        self.accelerator = accelerator
        self.fillers = {**PADDED_WITH, "prompt_ids": pad_token_id, "completion_ids": pad_token_id}
        self._parts: list[Rows] = []

    def add(self, output: dict[str, Any]) -> None:
        """Add the batch that all processes have just generated, each its own part.

        Raises:
            RunError: it has fields that prepo does not know.
        """
        unknown = sorted(output.keys() - FIELDS.keys() - {"num_items_in_batch"})
        if unknown:
            raise RunError(f"TRL's batch has fields that prepo can't rearrange: {', '.join(unknown)}")
        self._parts.append({key: self._gathered(key, output[key]) for key in FIELDS if key in output})

    def rows(self) -> Rows:
        """All rows, padded to the same length."""
        return {key: self._joined(key) for key in self._parts[0]}

    def _gathered(self, key: str, part: Tensor) -> Tensor:
        filler, left = self.fillers.get(key, 0), FIELDS[key]
        if self.accelerator.num_processes == 1:
            return part
        part = self.accelerator.pad_across_processes(part, dim=1, pad_index=filler, pad_first=left)
        gathered: Tensor = self.accelerator.gather(part)
        return gathered

    def _joined(self, key: str) -> Tensor:
        parts = [rows[key] for rows in self._parts]
        if parts[0].dim() == 1:
            return torch.cat(parts)
        width, filler = max(part.shape[1] for part in parts), self.fillers.get(key, 0)
        missing = [width - part.shape[1] for part in parts]
        sides = [(n, 0) if FIELDS[key] else (0, n) for n in missing]
        return torch.cat([pad(part, side, value=filler) for part, side in zip(parts, sides, strict=True)])


def deal(count: int, processes: int, micro_batches: int) -> list[list[int]]:
    """Positions of `count` rows by process, in turn; -1 stands for a row without effect. All shares are equally long.

    >>> deal(5, processes=2, micro_batches=2)
    [[0, 2, 4, -1], [1, 3, -1, -1]]
    >>> deal(0, processes=1, micro_batches=2)
    [[-1, -1]]
    """
    filled = max(count, 1)
    padded = [*range(count), *[-1] * (filled - count), *[-1] * (-filled % (processes * micro_batches))]
    return [padded[process::processes] for process in range(processes)]


def take(rows: Rows, chosen: Sequence[int]) -> Rows:
    """These rows, without columns that all of them have as padding; -1 stands for a row without effect."""
    idle = [i for i, row in enumerate(chosen) if row < 0]
    index = torch.tensor([max(row, 0) for row in chosen], device=rows["prompt_ids"].device)
    taken = {key: tensor[index] for key, tensor in rows.items()}
    taken["completion_mask"][idle] = 0
    taken["advantages"][idle] = 0
    start = int(taken["prompt_mask"].any(dim=0).int().argmax())
    end = max(1, _last(taken["completion_mask"]))
    width = taken["completion_ids"].shape[1]
    for key, tensor in taken.items():
        if tensor.dim() == 2 and FIELDS[key]:
            taken[key] = tensor[:, start:]
        elif tensor.dim() == 2 and tensor.shape[1] == width:
            taken[key] = tensor[:, :end]
    return taken


def loss_mask(rows: Rows) -> Tensor:
    """The tokens that the loss is taken over [N, T]."""
    return rows["completion_mask"] * rows["tool_mask"] if "tool_mask" in rows else rows["completion_mask"]


def gather_rows(accelerator: Accelerator, part_NT: Tensor) -> Tensor:
    """The rows of all processes, padded with 0 on the right."""
    if accelerator.num_processes > 1:
        part_NT = accelerator.gather(accelerator.pad_across_processes(part_NT, dim=1))
    return part_NT


def _last(mask_NT: Tensor) -> int:
    """One more than the last column with an entry."""
    columns = mask_NT.any(dim=0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 0
