"""What an engine is: prompts as token ids in; sampled token ids with their log-probs and entropies out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from prepo_cli.policy.policy import ModelSpec, Policy
    from prepo_cli.sections import EngineConfig, ModelConfig


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, to be completed once per seed."""

    prompt_ids: Sequence[int]
    seeds: Sequence[int]
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    expected_tokens: float | None = None
    """Expected length of a completion. It balances work between processes and never changes a rollout."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion. If it ended with an end-of-sequence token, that is its last token.

    `logprobs` and `entropies` (nats) hold one float32 value per token, taken from softmax(logits / temperature) over
    the full vocabulary. `entropies` is None if the engine does not report them.
    """

    token_ids: list[int]
    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32] | None
    truncated: bool


Progress = Callable[[int], Any]
"""Called with the number of rollouts, or prompts, that have just been dealt with."""
Finished = Callable[[int, int, Rollout], Any]
"""Called with each rollout once it is complete, others being generated still: the number of its request, that of its
seed, and the rollout."""


@dataclass(frozen=True, kw_only=True)
class EngineSetup:
    """Everything an engine may be built from; each uses what it needs.

    Attributes:
        model: a policy with its weights for engines that share them; a spec is enough for all others.
        max_context: tokens of the longest prompt and its completion together.
        sync_dir: default folder for weights that are handed over as files.
    """

    config: EngineConfig
    model: Policy | ModelSpec
    model_config: ModelConfig
    max_context: int
    seed: int
    sync_dir: Path
    num_processes: int = 1


class Generator(Protocol):
    """Anything that generates rollouts."""

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """The rollouts of each request, in the order of its seeds."""
        ...


class Engine(Generator, Protocol):
    """Generates with the policy as of the last `sync`, and tells the trainer how it relates to the trainer's model."""

    shares_weights: ClassVar[bool]
    """Samples with the trainer's own model: it needs a policy, always has the newest weights, and `sync` is a no-op."""
    serves_all: ClassVar[bool]
    """One engine, on the main process, generates for every process. It has its own weights and log-probs."""
    exact_logprobs: ClassVar[bool]
    """Log-probs come from the trainer's own kernels, so they need no importance correction. In reduced precision
    they may still differ by rounding from those of the trainer's differently batched forward pass."""
    scores_prompts: ClassVar[bool]
    """Has `prompt_logprobs`: see `PromptScorer`."""

    @classmethod
    def build(cls, setup: EngineSetup) -> Self:
        """The engine for a run; raises UsageError if it is not installed, not reachable or not set up correctly."""
        ...

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load new weights, complete and under the model's names on the hub."""
        ...

    def sleep(self) -> None:
        """Release device memory until the next `sync`, if the engine can."""
        ...

    def close(self) -> None:
        """Free everything the engine holds."""
        ...


class PromptScorer(Protocol):
    """An engine that scores prompts."""

    def prompt_logprobs(self, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Log-probs at temperature 1 of every token of each row except its first."""
        ...
