"""Runs grouped into recipes: those that agree in every setting but the seed, and how they were evaluated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prepo_cli.comparison.result import Run
from prepo_cli.sections import MAY_CHANGE, RewardConfig, RunConfig, StrategiesConfig, held_out_of
from strategies.strategy_set import SLOT_DEFAULTS

EVALUATED_WITH = {
    "dataset_name": "data",
    "split": "split",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_completion_length": "completion length",
}
"""Settings of an evaluation that its accuracy depends on, in words."""


@dataclass(frozen=True)
class Group:
    """The runs of one recipe in the order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The runs' seeds; empty unless all are known."""
        known = tuple(run.seed for run in self.runs if run.seed is not None)
        return known if len(known) == len(self.runs) else ()

    def only(self, seeds: Sequence[int]) -> Group:
        """The runs of these seeds."""
        return replace(self, runs=tuple(run for run in self.runs if run.seed in seeds))


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Runs by recipe, in the order they are first met, and notes on those that were left out.

    Recipes of the same name that differ in settings have these added to it. Runs carry their group's name as recipe.
    """
    alike: dict[str, list[Run]] = {}
    for run in unique_names(runs):
        key = json.dumps([run.source, run.recipe, settings(run)], sort_keys=True, default=str)
        alike.setdefault(key, []).append(run)
    groups, notes = [], []
    for members, name in zip(alike.values(), _names(list(alike.values())), strict=True):
        kept: list[Run] = []
        for run in sorted(members, key=lambda run: -1 if run.seed is None else run.seed):
            twin = next((other for other in kept if run.seed is not None and other.seed == run.seed), None)
            if twin is None:
                kept.append(replace(run, recipe=name))
            else:
                notes.append(
                    f"{run.name} was left out: {name} with seed {run.seed} is already included as {twin.name}."
                )
        groups.append(Group(name, tuple(kept)))
    return groups, notes


def settings(run: Run) -> dict[str, Any]:
    """Settings by dotted key that make a recipe: not the seed, where it was written, or how it was computed.

    Settings that the run's configuration lacks, as it was written by an older version, have their defaults.
    """
    defaults = _DEFAULTS if run.source == "prepo" else {}
    return {key: value for key, value in (defaults | dict(_flat(run.config))).items() if not _left_out(key)}


def conditions(run: Run) -> dict[str, Any]:
    """What two evaluations must share, apart from their prompts, for their accuracies to be compared."""
    config: dict[str, Any] = dict(run.config)
    values = config
    if run.source == "prepo":
        values = {**config.get("training", {}), **config.get("evaluation", {})}
        if values.get("dataset_name") is None:
            values |= {key: config.get("data", {}).get(key) for key in ("dataset_name", "split")}
    found: dict[str, Any] = {"metric": run.metric}
    if run.source in ("prepo", "eval"):
        found |= {words: values.get(key) for key, words in EVALUATED_WITH.items()}
        if values.get("holdout"):
            found["data"] = held_out_of(values["dataset_name"])
        found["verdict"] = _verdict(config.get("rewards", {}))
    return found


def unique_names(runs: Sequence[Run]) -> list[Run]:
    """The runs of different folders, those of the same name told apart by their folders."""
    once: dict[Path, Run] = {}
    for run in runs:
        once.setdefault(run.folder.resolve(), run)  # a folder that is given twice, or through a link, counts once
    count = Counter(run.name for run in once.values())
    return [run if count[run.name] == 1 else replace(run, name=str(run.folder)) for run in once.values()]


def _verdict(rewards: Mapping[str, Any]) -> str | None:
    """What decides correctness; other functions and weights never change it."""
    if not isinstance(rewards.get("functions"), list) or not rewards["functions"]:
        return None
    section = RewardConfig.model_construct(**rewards)
    function, least = section.verdict_function, section.correct_reward
    return function if least == RewardConfig().correct_reward else f"{function} >= {least}"


def _names(alike: Sequence[Sequence[Run]]) -> Iterator[str]:
    """A name for each group of runs: the recipe's, with the settings in which namesakes differ."""
    for members in alike:
        run = members[0]
        namesakes = [settings(others[0]) for others in alike if others[0].recipe == run.recipe]
        keys = sorted({key for found in namesakes for key in found})
        differing = [key for key in keys if any(found.get(key) != namesakes[0].get(key) for found in namesakes)]
        added = ", ".join(f"{key}={settings(run).get(key)}" for key in differing)
        yield f"{run.recipe} ({added})" if added else run.recipe


def _flat(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _may_change(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """Dotted keys of the settings and sections that a resumed run may change."""
    for name, field in model.model_fields.items():
        if MAY_CHANGE in field.metadata:
            yield f"{place}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _may_change(field.annotation, f"{place}{name}.")


def _left_out(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _LEFT_OUT)


_LEFT_OUT = ("seed", *_may_change(RunConfig))
_DEFAULTS = dict(_flat(RunConfig(strategies=StrategiesConfig(**SLOT_DEFAULTS)).model_dump(mode="json")))
