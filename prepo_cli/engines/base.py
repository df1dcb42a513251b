"""The protocol of engines: token ids in, sampled token ids with log-probs and entropies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed once for each seed."""

    prompt_ids: Sequence[int]
    seeds: Sequence[int]
    temperature: float
    max_tokens: int
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion. An end-of-sequence token, where it was sampled, is its last token.

    `logprobs` and `entropies` (nats) are of softmax(logits / temperature) over the full vocabulary, float32, one for
    each token. `entropies` is None from engines that can't tell.
    """

    token_ids: list[int]
    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32] | None
    truncated: bool


Progress = Callable[[int], Any]
"""Called with the number of rollouts that just finished."""


class Engine(Protocol):
    """Generates with the policy as of the last `sync`."""

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request, in the order of its seeds."""
        ...

    def sync(self, model: Any) -> None:
        """Take over the model's weights."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
