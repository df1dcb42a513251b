"""A step's rollouts, with everything that the trainer records about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from prepo_cli.engines.base import Rollout
from prepo_cli.rewards.judge import Scores
from strategies.types import Completion, FloatArray, Group, Prompt

Fate = Literal["trained", "masked", "filtered", "surplus"]
"""Trained on; masked out because it was truncated; dropped by the filter; in a group beyond a full batch."""


class Rolled(Protocol):
    """What rounds, advantages and costs need to know of a rollout, whichever trainer made it."""

    fate: Fate
    advantage: float

    @property
    def prompt(self) -> Prompt: ...
    @property
    def reward(self) -> float: ...
    @property
    def correct(self) -> bool: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def kept(self) -> bool: ...
    def completion(self) -> Completion:
        """The rollout as strategies see it."""
        ...


R = TypeVar("R", bound=Rolled)


@dataclass(slots=True)
class Sample:
    """One rollout. Its entropies come from the engine, or from a forward pass where the engine records none."""

    prompt: Prompt
    prompt_ids: list[int]
    rollout: Rollout
    text: str
    temperature: float
    reward: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)
    """Each function's own, unweighted value; NaN where it does not apply."""
    correct: bool = False
    fate: Fate = "trained"
    advantage: float = 0.0
    weight: float = 0.0
    entropies: FloatArray | None = None
    """Of each token, in nats."""
    old_logprobs: FloatArray | None = None
    """Under the policy before the update; only set if the update takes several optimizer steps."""
    reference_logprobs: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.entropies is None:
            self.entropies = self.rollout.entropies

    @property
    def num_tokens(self) -> int:
        """Completion tokens."""
        return len(self.rollout.token_ids)

    @property
    def kept(self) -> bool:
        """Whether it belongs to the training batch, masked or not."""
        return self.fate in ("trained", "masked")

    def completion(self) -> Completion:
        """The rollout as strategies see it."""
        entropies = self.entropies if self.num_tokens else None
        return Completion(
            reward=self.reward,
            correct=self.correct,
            num_tokens=self.num_tokens,
            truncated=self.rollout.truncated,
            temperature=self.temperature,
            entropy=None if entropies is None else float(np.mean(entropies, dtype=np.float64)),
        )


Groups = Sequence[Sequence[Sample]]
"""Rollouts by prompt and round."""


def record(group: Sequence[Rolled]) -> Group:
    """A group as strategies see it."""
    return Group(group[0].prompt, tuple(rollout.completion() for rollout in group))


@dataclass(slots=True)
class Collected(Generic[R]):
    """All groups of a step in the order they were rolled out, and their scores by batch."""

    groups: list[list[R]] = field(default_factory=list)
    rounds: int = 0
    scores: list[Scores] = field(default_factory=list)

    @property
    def samples(self) -> list[R]:
        """Every rollout generated."""
        return [sample for group in self.groups for sample in group]

    @property
    def kept(self) -> list[list[R]]:
        """The rollouts of the training batch, masked ones included: what advantages are taken over."""
        return _nonempty([s for s in group if s.kept] for group in self.groups)

    @property
    def trained(self) -> list[list[R]]:
        """The rollouts that the loss is taken over."""
        return _nonempty([s for s in group if s.fate == "trained"] for group in self.groups)


def _nonempty(groups: Iterable[list[R]]) -> list[list[R]]:
    return [group for group in groups if group]
