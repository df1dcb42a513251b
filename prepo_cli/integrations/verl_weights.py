"""Weights on verl's advantages, which its losses multiply with each token's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from prepo_cli.integrations.verl_queue import rows
from strategies.types import Batch, FloatArray

EMPTY = Batch(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), None, np.zeros((0, 0), dtype=np.bool_))
"""What strategies see of a step that trains on nothing."""


def apply_weights(
    batch: KVBatchMeta, places: Mapping[str, tuple[int, int]], weigh: Callable[[Batch], FloatArray]
) -> KVBatchMeta:
    """Multiply the advantages of a batch by weights.

    Args:
        batch: whose advantages verl has computed.
        places: group and rank in the step of each trajectory to be trained on, by key; verl's padding has none.
        weigh: weights [N, 1] or [N, T] of the batch that strategies see, which is in the order of the ranks.
    """
    keys = sorted((key for key in batch.keys if key in places), key=lambda key: places[key][1])
    fields = ["advantages", "response_mask", "rm_scores", "entropy"]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
    advantages = rows(data["advantages"])
    shown = _batch(data, np.array([places[key][0] for key in keys], dtype=np.int64))
    weights_NT = weigh(shown)
    if (weights_NT == 1).all():
        return batch
    weighted = [
        row * torch.from_numpy(np.broadcast_to(weight_T[: len(row)], len(row)).copy()).to(row.dtype)
        for row, weight_T in zip(advantages, weights_NT, strict=True)
    ]
    nested = torch.nested.as_nested_tensor(weighted, layout=torch.jagged)
    tq.kv_batch_put(
        keys=keys, partition_id=batch.partition_id, fields=TensorDict({"advantages": nested}, batch_size=len(keys))
    )
    return batch


def _batch(data: TensorDict, group_N: np.ndarray) -> Batch:
    """The rows of `data` as strategies see them; entropies are missing where verl computes none."""
    mask_NT = _padded([row.bool() for row in rows(data["response_mask"])])
    advantages_NT = _padded([row.double() for row in rows(data["advantages"])])
    return Batch(
        group_N=group_N,
        rewards_N=np.array([float(row.sum()) for row in rows(data["rm_scores"])], dtype=np.float64),
        # A rollout's advantage is that of all its tokens, or, with a critic, their mean.
        advantages_N=(advantages_NT * mask_NT).sum(axis=1) / np.maximum(mask_NT.sum(axis=1), 1),
        entropy_NT=_padded([row.float() for row in rows(data["entropy"])]) * mask_NT if "entropy" in data else None,
        mask_NT=mask_NT,
    )


def _padded(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).numpy()
