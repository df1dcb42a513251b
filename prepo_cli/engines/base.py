"""The protocol of engines: token ids in, sampled token ids with log-probs and entropies out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed once for each seed."""

    prompt_ids: Sequence[int]
    seeds: Sequence[int]
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    expected_tokens: float | None = None
    """Likely length of a completion, for sharing work out; it changes no result."""


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


class Generator(Protocol):
    """What makes rollouts."""

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request, in the order of its seeds."""
        ...


class Engine(Generator, Protocol):
    """Generates with the policy as of the last `sync`."""

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over weights, full and under the hub's names."""
        ...

    def sleep(self) -> None:
        """Give up device memory until the next `sync`, if the engine can."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
