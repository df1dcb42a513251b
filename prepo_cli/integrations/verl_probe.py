"""The perplexity of prompts under verl's policy, by the same pass of its actor that computes old log-probs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from prepo_cli.data.rendering import Rendered
from prepo_cli.integrations.verl_data import TrainingSet
from prepo_cli.integrations.verl_queue import rows
from prepo_cli.policy.policy import perplexities
from strategies.types import FloatArray, Prompt

PARTITION = "prepo"
"""Where the prompts that are scored lie, apart from verl's own."""


class VerlProbe:
    """Asks the current policy, and charges that.

    Args:
        trainer: whose actor scores.
        prompts: the training set.
        charge: is told how many tokens were scored.
    """

    def __init__(self, trainer: PPOTrainerSync, prompts: TrainingSet, charge: Callable[[int], None]) -> None:
        self._trainer, self._prompts, self._charge = trainer, prompts, charge

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt [N] at temperature 1."""
        rendered = [self._prompts.rendered(prompt.index) for prompt in prompts]
        self._charge(sum(len(each.token_ids) for each in rendered))
        logprobs = self._score(rendered)
        # Entry i is the log-prob of token i + 1, as nothing predicts token 0.
        spans = [each.scored_span(scope) for each in rendered]
        parts = [row[max(start - 1, 0) : end - 1] for row, (start, end) in zip(logprobs, spans, strict=True)]
        ppl_N: FloatArray = perplexities([part.float().numpy() for part in parts])[:, 0]
        return ppl_N

    def _score(self, rendered: Sequence[Rendered]) -> list[torch.Tensor]:
        filled = [*rendered, *[rendered[0]] * (-len(rendered) % self._multiple())]
        keys = [f"prompt_{i}_0" for i in range(len(filled))]
        contents = [_sequence(each.token_ids) for each in filled]
        tags = [{"seq_len": len(each.token_ids)} for each in filled]
        tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=list_of_dict_to_tensordict(contents), tags=tags)
        batch = KVBatchMeta(partition_id=PARTITION, keys=keys, tags=tags)
        batch.extra_info.update({"calculate_entropy": False, "compute_loss": False, "temperature": 1.0})
        with self._replicas_asleep():
            self._trainer.actor_rollout_wg.compute_log_prob(batch)
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=["log_probs"])
        tq.kv_clear(keys=keys, partition_id=PARTITION)
        return rows(data["log_probs"])[: len(rendered)]

    def _multiple(self) -> int:
        """Rows that every data-parallel rank can split evenly into its micro-batches."""
        worker, rollout = self._trainer.actor_rollout_wg, self._trainer.config.actor_rollout_ref.rollout
        if "actor" not in worker._dispatch_info:
            worker._dispatch_info["actor"] = worker._query_dispatch_info("actor")
        ranks: int = max(worker._dispatch_info["actor"]) + 1
        return ranks if rollout.log_prob_use_dynamic_bsz else ranks * (rollout.log_prob_micro_batch_size_per_gpu or 1)

    @contextmanager
    def _replicas_asleep(self) -> Iterator[None]:
        """Free the memory of the inference engines, which the actor needs, as verl does before every pass of its."""
        manager = self._trainer.checkpoint_manager
        manager.sleep_replicas()
        yield
        manager.update_weights(self._trainer.global_steps - 1)  # the version that they had


def _sequence(token_ids: list[int]) -> dict[str, Any]:
    """A prompt as verl's actor takes it: its first token is the prompt, the others are the response."""
    ids = torch.tensor(token_ids, dtype=torch.int64)
    mask = torch.ones(len(ids) - 1, dtype=torch.int64)
    return {
        "prompts": ids[:1],
        "responses": ids[1:],
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "multi_modal_inputs": {},
    }
