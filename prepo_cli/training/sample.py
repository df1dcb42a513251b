"""A rollout as the update sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prepo_cli.training.collect import Sample
from strategies.types import FloatArray


@dataclass
class Trainee:
    """Token ids, the prompt's length, and a factor (advantage x weight) for each completion token."""

    ids: list[int]
    start: int
    temperature: float
    factor_T: FloatArray
    engine_logprob_T: FloatArray
    group: int
    old_logprob_T: FloatArray | None = None
    reference_logprob_T: FloatArray | None = None

    @property
    def span(self) -> tuple[int, int]:
        """The completion's tokens."""
        return self.start, len(self.ids)

    @classmethod
    def filler(cls, token: int, with_reference: bool) -> Trainee:
        """One that counts for nothing, for a process that has no rollout where others have one."""
        zero = np.zeros(1, dtype=np.float32)
        return cls([token, token], 1, 1.0, zero, zero, -1, None, zero if with_reference else None)


def trainees(groups: Sequence[Sequence[Sample]], weights_NT: FloatArray, drop_truncated: bool) -> list[Trainee]:
    """Rollouts with factor advantage x weight for each token; truncated ones are left out where so configured."""
    rows = [(number, sample) for number, group in enumerate(groups) for sample in group]
    made = []
    for (number, sample), weights in zip(rows, weights_NT, strict=True):
        length = len(sample.rollout.token_ids)
        if length == 0 or (drop_truncated and sample.rollout.truncated):
            continue
        made.append(
            Trainee(
                ids=sample.prompt_ids + sample.rollout.token_ids,
                start=len(sample.prompt_ids),
                temperature=sample.temperature,
                factor_T=sample.advantage * np.broadcast_to(weights[:length], length),
                engine_logprob_T=sample.rollout.logprobs,
                group=number,
                old_logprob_T=sample.old_logprobs,
            )
        )
    return made


def num_tokens(batch: Sequence[Trainee]) -> int:
    """Completion tokens of all."""
    return sum(trainee.span[1] - trainee.span[0] for trainee in batch)
