"""The batch that TRL trains on: what the filter kept, dealt out to processes, and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOTrainer

from prepo_cli.integrations.session import Outcome, Session
from prepo_cli.integrations.trl_hooks import ROW_MEANS
from prepo_cli.integrations.trl_roll import Roller
from prepo_cli.integrations.trl_rows import Rows, deal, gather_rows, loss_mask, take
from prepo_cli.training.batch import assign_advantages, group_numbers
from prepo_cli.training.rollouts import Collected
from strategies.types import Batch, FloatArray

EPSILON = 1e-4
"""What TRL adds to the deviation that it divides advantages by."""
ROW_SCALE = "prepo_row_scale"
"""A field of the batch: the loss is to be multiplied by it, since rows without effect count in its mean."""


@dataclass(frozen=True)
class Arranged:
    """This process's rows, and the rollout of each row of all processes, in their order; None has no effect."""

    rows: dict[str, Any]
    outcomes: list[Outcome | None]


def arranged(trainer: GRPOTrainer, roller: Roller, step: Collected[Outcome]) -> Arranged:
    """The rows to train on. TRL's own batch, with its own advantages, if that is what the step came to."""
    if roller.trains_on_all(step):
        return Arranged(roller.outputs[0], [*step.samples])
    roller.replace_metrics(step)
    rows = roller.table().rows()
    kept = [outcome for group in step.kept for outcome in group]
    rows["advantages"] = _advantages(step, trainer.scale_rewards, rows["advantages"])
    processes, index = trainer.accelerator.num_processes, trainer.accelerator.process_index
    shares = deal(len(kept), processes, trainer.args.steps_per_generation)
    dealt = [[kept[i] if i >= 0 else None for i in share] for share in shares]
    output: dict[str, Any] = take(rows, [-1 if outcome is None else outcome.row for outcome in dealt[index]])
    output["num_items_in_batch"] = loss_mask(rows)[[outcome.row for outcome in kept]].sum()
    if trainer.loss_type in ROW_MEANS:
        output[ROW_SCALE] = torch.tensor(processes * len(shares[0]) / max(len(kept), 1))
    return Arranged(output, [outcome for share in dealt for outcome in share])


def weighed(
    trainer: GRPOTrainer, session: Session, step: Collected[Outcome], batch: Arranged, entropies: Tensor | None
) -> dict[str, Any]:
    """The rows with weighted advantages; `entropies` are those of this process's tokens [n, T]."""
    accelerator, rows = trainer.accelerator, batch.rows
    mask_NT = gather_rows(accelerator, loss_mask(rows)).cpu().numpy() > 0
    advantages_N = accelerator.gather(rows["advantages"]).double().cpu().numpy()
    entropy_NT = None if entropies is None else gather_rows(accelerator, entropies).float().cpu().numpy() * mask_NT
    at = {outcome.row: i for i, outcome in enumerate(batch.outcomes) if outcome is not None}
    trained = [outcome for group in step.trained for outcome in group]
    places = np.array([at[outcome.row] for outcome in trained], dtype=np.int64)
    weights_NT = session.weigh(
        Batch(
            group_N=group_numbers(step.trained),
            rewards_N=np.array([outcome.reward for outcome in trained], dtype=np.float64),
            advantages_N=advantages_N[places],
            entropy_NT=None if entropy_NT is None else entropy_NT[places],
            mask_NT=mask_NT[places],
        )
    )
    if (weights_NT == 1).all():
        return rows
    local_NT = _local(weights_NT, places, accelerator, len(batch.outcomes))
    return {**rows, "advantages": _product(rows, torch.from_numpy(local_NT))}


def _advantages(step: Collected[Outcome], scale_rewards: str, like: Tensor) -> Tensor:
    """Advantages of all rows, over those of each group that are kept; as in TRL, unscored ones count for nothing."""
    groups = [[outcome for outcome in group if outcome.scored] for group in step.kept]
    scored: Sequence[Sequence[Outcome]] = [group for group in groups if group]
    if scored:
        assign_advantages(scored, scale_rewards, EPSILON)
    advantages = torch.zeros_like(like)
    for group in scored:
        for outcome in group:
            advantages[outcome.row] = outcome.advantage
    return advantages


def _local(weights_NT: FloatArray, places: Any, accelerator: Any, rows: int) -> FloatArray:
    """The weights of this process's rows; 1 for those that are not trained on."""
    all_NT = np.ones((rows, weights_NT.shape[1]), dtype=np.float32)
    all_NT[places] = weights_NT
    share = rows // accelerator.num_processes
    return all_NT[accelerator.process_index * share : (accelerator.process_index + 1) * share]


def _product(rows: Rows, weights_NT: Tensor) -> Tensor:
    """Advantages [N], or [N, T] with weights by token."""
    weights_NT = weights_NT.to(rows["advantages"].device)
    if weights_NT.shape[1] == 1:
        return rows["advantages"] * weights_NT[:, 0]
    return rows["advantages"][:, None] * weights_NT[:, : rows["completion_mask"].shape[1]]
