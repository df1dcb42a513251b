"""What strategies see: frozen records and two protocols, free of tensors, ranks and files.

Axis letters: N rollouts of a batch, T completion tokens (right-padded), M all completion tokens of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from strategies.errors import StrategyError

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row of the training set. `index` is its row number, the key of all per-prompt state.

    `pass_rate` is the one measured before the run (`prepo score-passrate`), and is never updated; `num_tokens` is the
    length of the rendered prompt.
    """

    index: int
    id: str
    source: str | None = None
    difficulty: float | None = None
    rank: float | None = None
    ppl: float | None = None
    pass_rate: float | None = None
    num_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One rollout as strategies see it. `entropy` is the mean over its tokens, in nats, of the sampled distribution."""

    reward: float
    correct: bool
    num_tokens: int
    truncated: bool
    temperature: float
    entropy: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt's rollouts of one round."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    @property
    def rewards_N(self) -> FloatArray:
        """Rewards, float64."""
        return np.array([c.reward for c in self.completions], dtype=np.float64)

    @property
    def zero_variance(self) -> bool:
        """Whether all rewards are equal, so that no rollout of the group has an advantage."""
        return all(c.reward == self.completions[0].reward for c in self.completions)

    @property
    def num_correct(self) -> int:
        """Number of correct rollouts."""
        return sum(c.correct for c in self.completions)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rollouts that are about to be trained on, over all processes, without those masked out.

    `group_N` numbers the group of each rollout; `mask_NT` is true on completion tokens; `advantages_N` are normalized
    already. `entropy_NT` is in nats, of softmax(logits / temperature), zero where masked; it is computed only for
    weightings that set `needs_entropy`, else it is None.
    """

    group_N: IntArray
    rewards_N: FloatArray
    advantages_N: FloatArray
    entropy_NT: FloatArray | None
    mask_NT: BoolArray

    @property
    def lengths_N(self) -> IntArray:
        """Completion tokens of each rollout."""
        lengths_N: IntArray = self.mask_NT.sum(axis=1)
        return lengths_N

    @property
    def entropy_M(self) -> FloatArray:
        """Entropies of all completion tokens, rollout by rollout; raises StrategyError if none were computed."""
        if self.entropy_NT is None:
            raise StrategyError("this batch has no entropies: set needs_entropy = True on the weighting's class")
        return self.entropy_NT[self.mask_NT]

    @property
    def mean_entropy_N(self) -> FloatArray:
        """Mean entropy over each rollout's tokens, float64, 0 for an empty rollout; raises as `entropy_M` does."""
        rollout_M = np.repeat(np.arange(len(self.mask_NT)), self.lengths_N)
        total_N = np.bincount(rollout_M, self.entropy_M, minlength=len(self.mask_NT))
        return total_N / np.maximum(self.lengths_N, 1)

    @property
    def token_mean_entropy(self) -> float | None:
        """Mean entropy over all tokens of the batch; None where entropies were not computed or there is no token."""
        if self.entropy_NT is None or not self.mask_NT.any():
            return None
        return float(self.entropy_M.mean(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a strategy may know when it is created. `columns` are the optional columns that the training set has."""

    num_prompts: int
    total_steps: int
    prompts_per_step: int
    num_generations: int
    seed: int = 0
    vocab_size: int = 0
    columns: frozenset[str] = frozenset()


class PromptSource(Protocol):
    """The shuffled, resumable stream of prompts, epoch after epoch."""

    @property
    def epoch(self) -> int:
        """Number of complete passes over the training set, counted by prompts taken."""
        ...

    def take(self, m: int) -> list[Prompt]:
        """Exactly m prompts, used up whether selected or not; no repeats in a step while there are other prompts."""
        ...


class Probe(Protocol):
    """What a selector may ask about the current policy; the cost is charged to the run."""

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt under the current policy, float64; `scope` is `question` or `prompt`."""
        ...


class NoProbe:
    """A probe without a model."""

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Raise RuntimeError."""
        raise RuntimeError("no policy to probe: pass a probe to StepContext")


@dataclass(frozen=True, slots=True)
class StepContext:
    """The position in the run. Steps, rounds and epochs count from 0.

    In a run that ends at a cost (rollouts, tokens or seconds), `spent` is the share of it that is spent, and
    `total_steps` is 0 unless the number of steps is limited as well.
    """

    step: int
    total_steps: int
    epoch: int
    round: int
    seed: int
    temperature: float = 1.0
    probe: Probe = field(default_factory=NoProbe)
    spent: float | None = None

    @property
    def progress(self) -> float:
        """Completed fraction of the run, in [0, 1): of its cost limit if it has one, else of its steps."""
        done = self.spent if self.spent is not None else self.step / self.total_steps if self.total_steps else 0.0
        return min(done, 1.0 - 1e-12)

    def rng(self, salt: str) -> np.random.Generator:
        """A random generator that depends only on seed, step, round and `salt`."""
        return np.random.default_rng(derive_seed(self.seed, self.step, self.round, salt))


@dataclass(frozen=True, slots=True)
class StepReport:
    """What happened in a step, after the update.

    `epoch` is that of the step's start and `epochs_ended` how many ended in it; `entropy` is the token mean over the
    trained batch, in nats; `rollouts_total` and `rollouts_trained` count from the start of the run;
    `spent` is the share of the cost limit, as in `StepContext`, after the step.
    """

    step: int
    total_steps: int
    epoch: int
    epochs_ended: int
    temperature: float
    entropy: float | None
    reward: float
    updated: bool
    rollouts_total: int
    rollouts_trained: int
    spent: float | None = None


def derive_seed(*parts: object) -> int:
    """A 63-bit seed derived from printable parts; the same parts give the same seed on every machine.

    >>> derive_seed(7, "rollout", 3, "p0001", 2)
    6733963496582523418
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
