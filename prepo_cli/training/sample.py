"""Training samples: rollouts as the update sees them, and micro-batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prepo_cli.policy.plans import PADDED, Arrangement
from prepo_cli.policy.rows import Rows
from prepo_cli.training.rollouts import Sample
from strategies.types import FloatArray


@dataclass
class TrainingSample:
    """Token ids, the position where the completion starts, and a factor (advantage x weight) per completion token."""

    ids: list[int]
    start: int
    temperature: float
    factor_T: FloatArray
    engine_logprob_T: FloatArray
    group: int
    old_logprob_T: FloatArray | None = None
    """None on-policy: the update's own forward pass computes it."""
    reference_logprob_T: FloatArray | None = None
    prompt_id: str = ""
    reward: float = 0.0
    advantage: float = 0.0
    """Like prompt and reward, only for the file of an update that is skipped."""

    @property
    def num_tokens(self) -> int:
        """Completion tokens."""
        return len(self.ids) - self.start

    @property
    def has_gradient(self) -> bool:
        """Whether the loss depends on it: it has an advantage, or a KL to the reference."""
        return bool(self.factor_T.any()) or self.reference_logprob_T is not None

    @classmethod
    def filler(cls, token: int, with_reference: bool) -> TrainingSample:
        """A sample without effect, for a process that has run out of samples while others have not."""
        zero = np.zeros(1, dtype=np.float32)
        return cls([token, token], 1, 1.0, zero, zero, -1, None, zero if with_reference else None)


def training_samples(groups: Sequence[Sequence[Sample]], weights_NT: FloatArray) -> list[TrainingSample]:
    """Rollouts [N] with a factor of advantage x weight for each token; `weights_NT` is [N, 1] or [N, T]."""
    rows = [(number, sample) for number, group in enumerate(groups) for sample in group]
    return [
        TrainingSample(
            ids=sample.prompt_ids + sample.rollout.token_ids,
            start=len(sample.prompt_ids),
            temperature=sample.temperature,
            factor_T=sample.advantage * np.broadcast_to(weight_T[: sample.num_tokens], sample.num_tokens),
            engine_logprob_T=sample.rollout.logprobs,
            group=number,
            old_logprob_T=sample.old_logprobs,
            reference_logprob_T=sample.reference_logprobs,
            prompt_id=sample.prompt.id,
            reward=sample.reward,
            advantage=sample.advantage,
        )
        for (number, sample), weight_T in zip(rows, weights_NT, strict=True)
    ]


@dataclass(frozen=True)
class MicroBatch:
    """Samples as tensors, those with M axis of their completion tokens row by row; `old_M` as in `TrainingSample`."""

    rows: Rows
    sequence_M: Tensor
    factor_M: Tensor
    engine_M: Tensor
    old_M: Tensor | None
    reference_M: Tensor | None

    @classmethod
    def of(
        cls,
        samples: Sequence[TrainingSample],
        pad_token_id: int,
        device: torch.device,
        arrangement: Arrangement = PADDED,
    ) -> MicroBatch:
        """Arrange and concatenate."""
        rows = Rows.of(
            [s.ids for s in samples],
            [(s.start, len(s.ids)) for s in samples],
            [s.temperature for s in samples],
            pad_token_id,
            device,
            arrangement,
        )
        return cls(
            rows=rows,
            sequence_M=rows.row_M,
            factor_M=_joined([s.factor_T for s in samples], device),
            engine_M=_joined([s.engine_logprob_T for s in samples], device),
            old_M=_joined_if_known([s.old_logprob_T for s in samples], device),
            reference_M=_joined_if_known([s.reference_logprob_T for s in samples], device),
        )


def _joined(parts: Sequence[FloatArray], device: Any) -> Tensor:
    with np.errstate(over="ignore"):  # what is infinite in float32 makes the loss so, and the update is skipped
        return torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(device)


def _joined_if_known(parts: Sequence[FloatArray | None], device: Any) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return _joined(known, device) if known else None
