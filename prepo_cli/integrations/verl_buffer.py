"""verl's replay buffer with prepo's rounds in it: what a step samples is what the strategies chose and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from prepo_cli.integrations.verl_queue import TRAIN, Tags


class PrepoReplayBuffer(ReplayBuffer):
    """Samples training batches through `collect`, which the trainer sets; validation is verl's own.

    Nothing is in flight when a batch is handed over: a round ends when all of its rollouts have, and every trajectory
    that is not trained on is deleted then.
    """

    collect: Callable[[], Sequence[str]]
    """Rolls out a step's batch; returns the keys of the trajectories to train on."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The batch of a step; `batch_size` is the number of prompts in it."""
        if partition_id != TRAIN:
            batch: tuple[KVBatchMeta, dict[str, Any]] = super().sample(global_steps, partition_id, batch_size)
            return batch
        keys = self.collect()
        tags = self.partitions[TRAIN]
        dropped = list(tags.keys() - set(keys))
        if dropped:
            tq.kv_clear(keys=dropped, partition_id=TRAIN)
        # In the order of the rounds; verl's is that in which rollouts happen to end.
        kept = {key: tags[key] for key in keys}
        return self._materialize_batch(TRAIN, list(self.prompt_global_steps[TRAIN]), kept), {}

    def wait(self, uids: Sequence[str]) -> Tags:
        """Block until every rollout of these prompts has ended; returns the tags of all trajectories."""
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            if self.finished_keys[TRAIN] | self.failure_keys[TRAIN] >= set(uids):
                tags: Tags = self.partitions[TRAIN]
                return tags
            last_debug_time = self._wait_for_next_poll(TRAIN, last_debug_time)
