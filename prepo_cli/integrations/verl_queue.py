"""verl's trajectories in the TransferQueue, read as rollouts.

A trajectory's key is `<uid>_<session>_<output>`: its prompt's uid, the number of the rollout, and that of the output
where an agent returns several. The outputs of a session are one rollout, and the last of them has its reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from verl.utils import tensordict_utils as tu

from prepo_cli.errors import RunError

TRAIN = "train"
"""verl's name of the partition that training rollouts are in."""
Tags = Mapping[str, Mapping[str, Any]]
"""What verl notes of each trajectory, by its key."""


@dataclass(frozen=True)
class Trajectories:
    """A rollout: its trajectories' keys, in order, its reward, and the tokens that the policy generated."""

    keys: list[str]
    reward: float
    accuracy: float
    num_tokens: int
    response_length: int


def split(key: str) -> tuple[str, int, int]:
    """A trajectory's uid, session and output."""
    uid, session, output = key.rsplit("_", 2)
    return uid, int(session), int(output)


def read(uids: Sequence[str], tags: Tags) -> list[list[Trajectories]]:
    """The rollouts of each prompt in the order of their sessions; those that failed are missing.

    Raises:
        RunError: a rollout has no reward.
    """
    sessions: dict[str, dict[int, list[str]]] = {uid: {} for uid in uids}
    for key in sorted(tags, key=split):
        uid, session, _ = split(key)
        if uid in sessions:
            sessions[uid].setdefault(session, []).append(key)
    values = _values([key for rollouts in sessions.values() for keys in rollouts.values() for key in keys])
    return [[_trajectories(keys, tags, values) for keys in rollouts.values()] for rollouts in sessions.values()]


def rename_group(keys: Sequence[str], uid: str) -> None:
    """Make trajectories part of the group `uid`, by which verl normalizes advantages."""
    tq.kv_batch_put(keys=list(keys), partition_id=TRAIN, fields=tu.get_tensordict({"uid": [uid] * len(keys)}))


def rows(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a jagged or a dense tensor."""
    return list(tensor.unbind(0))


def _values(keys: list[str]) -> dict[str, dict[str, Any]]:
    if not keys:
        return {}
    fields = ["rm_scores", "response_mask", "extra_fields"]
    data = tq.kv_batch_get(keys=keys, partition_id=TRAIN, select_fields=fields)
    columns = {name: [getattr(value, "data", value) for value in data[name]] for name in fields if name in data}
    return {key: {name: column[i] for name, column in columns.items()} for i, key in enumerate(keys)}


def _trajectories(keys: list[str], tags: Tags, values: Mapping[str, Mapping[str, Any]]) -> Trajectories:
    last = values[keys[-1]]
    if "rm_scores" not in last:
        raise RunError(f"verl's rollout {keys[-1]} has no reward; set a reward function, or an agent that returns one")
    reward = float(last["rm_scores"].sum())
    return Trajectories(
        keys=keys,
        reward=reward,
        accuracy=float(last["extra_fields"].get("reward_extra_info", {}).get("acc", reward)),
        num_tokens=sum(int(values[key]["response_mask"].sum()) for key in keys),
        response_length=tags[keys[-1]]["response_len"],
    )
