"""The learning rate: linear warm-up, then constant, or linear or cosine decay to 0 over the run's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from prepo_cli.errors import UsageError
from prepo_cli.sections import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, spent: float | None = None) -> float:
    """The rate at a step, counted from 0; the first step of a warm-up of n steps has 1 / n of the full rate.

    `spent` is the share of the cost limit that is spent, in a run that has one; the decay then follows it.

    >>> config = TrainingConfig(learning_rate=1.0, lr_scheduler_type="linear", warmup_steps=2, total_steps=10)
    >>> [learning_rate(config, step) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if spent is None:
        assert config.total_steps is not None
        spent = max(step - config.warmup_steps, 0) / max(config.total_steps - config.warmup_steps, 1)
    done = min(spent, 1.0)
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return config.learning_rate * warmup * decay[config.lr_scheduler_type]


def refuse_overwriting(learning_rate: float, weights: Sequence[nn.Parameter]) -> None:
    """Refuse a learning rate near the weights' own size: AdamW moves each weight by about the rate in a step.

    >>> refuse_overwriting(0.5, [nn.Parameter(torch.full((4,), 0.1))])
    Traceback (most recent call last):
    prepo_cli.errors.UsageError: training.learning_rate=0.5 is too large: AdamW moves each weight by about that \
much per step, and the root mean square of the trained weights is 0.1; use a far smaller one

    Raises:
        UsageError: it is above a third of their root mean square.
    """
    norm = float(torch.nn.utils.get_total_norm([weight.detach() for weight in weights]))
    size = norm / math.sqrt(sum(weight.numel() for weight in weights))
    if learning_rate > size / 3:
        raise UsageError(
            f"training.learning_rate={learning_rate:g} is too large: AdamW moves each weight by "
            "about that much per step, and the root mean square of the trained weights is "
            f"{size:.2g}; use a far smaller one"
        )
