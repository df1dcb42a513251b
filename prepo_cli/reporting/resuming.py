"""What a resumed run may change: where and how it computes, and where it ends. The rest is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prepo_cli.errors import UsageError
from prepo_cli.sections import COST_LIMITS, ENDS_RUN, MAY_CHANGE, RunConfig
from strategies import registry

LIMITS = ("total_steps", *COST_LIMITS)
REASONS = {
    "seed": "all random numbers are derived from it",
    "model": "the checkpoints continue from this model",
    "data": "the checkpoints record a position in this sequence of prompts",
    "rewards": "rewards before and after the change would not be comparable",
    "strategies": "the checkpoints contain the state of these strategies",
    "training": "the result must come from one set of hyperparameters",
    "evaluation": "accuracies before and after the change would not be comparable",
}
"""Why the settings of a section can't change on resume."""


def differences(before: Mapping[str, Any], now: BaseModel, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ and may not change on resume: dotted key, value that the run wrote, value now."""
    values = now.model_dump(mode="json")
    for name, field in type(now).model_fields.items():
        section, written = getattr(now, name), before.get(name)
        if MAY_CHANGE in field.metadata or ENDS_RUN in field.metadata:
            continue
        if isinstance(section, BaseModel):
            yield from differences(written or {}, section, f"{place}{name}.")
        elif written != values[name]:
            yield f"{place}{name}", written, values[name]


def refuse_another_run(path: Path, before: Mapping[str, Any], now: RunConfig) -> None:
    """Refuse to resume the run in a folder with settings that make it another one.

    Raises:
        UsageError: the first of these settings, why it can't change, and what to do instead.
    """
    for key, written, wanted in differences(before, now):
        instead = "choose another --output-dir"
        if (path / "final").is_dir():
            instead = f"start a new run from its final model: --model {path} with another --output-dir"
        raise UsageError(
            f"{path} was started with {key}={written!r:.300}, not {wanted!r:.300}, and this can't "
            f"change on resume, because {reason(key)}; resume without the change, or {instead}"
        )


def reason(key: str) -> str:
    """Why a setting can't change on resume.

    >>> reason("training.learning_rate")
    'the result must come from one set of hyperparameters'
    """
    return REASONS[key.partition(".")[0]]


def changed_limits(before: RunConfig, now: RunConfig) -> dict[str, tuple[float | None, float | None]]:
    """Limits on the run's length that differ, by name: before and now."""
    pairs = {name: (getattr(before.training, name), getattr(now.training, name)) for name in LIMITS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def depends_on_length(config: RunConfig) -> list[str]:
    """What in a run follows its progress, and so changes with its length; strategies declare `reads_progress`."""
    kind = config.training.lr_scheduler_type
    found = [] if kind == "constant" else [f"the learning rate ({kind})"]
    slots = config.strategies.model_dump()
    return found + [
        f"{slot.replace('_', '-')} {text}" for slot, text in slots.items() if registry.reads_progress(slot, text)
    ]
