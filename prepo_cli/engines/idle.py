"""The engine of the other processes when the main process's engine generates for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from prepo_cli.engines.base import EngineSetup, Finished, Request, Rollout

if TYPE_CHECKING:
    from torch import Tensor


class IdleEngine:
    """Generates nothing, but still takes part in gathering sharded weights."""

    shares_weights: ClassVar[bool] = False
    serves_all: ClassVar[bool] = True
    exact_logprobs: ClassVar[bool] = False
    scores_prompts: ClassVar[bool] = False

    @classmethod
    def build(cls, setup: EngineSetup) -> IdleEngine:
        """Ignores the setup."""
        return cls()

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """No rollouts: all requests go to the main process's engine."""
        assert not requests
        return []

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Consume the weights, since each tensor of a sharded policy is gathered by all processes together."""
        for _ in weights:
            pass

    def sleep(self) -> None:
        """Nothing to release."""

    def close(self) -> None:
        """Nothing to free."""
