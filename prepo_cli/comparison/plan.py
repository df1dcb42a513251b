"""Which runs a study consists of: recipes, some with a slot replaced, times seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prepo_cli.config import read_recipe, read_yaml, resolve
from prepo_cli.errors import UsageError
from prepo_cli.ownership import find_numbered, refuse_non_folder
from prepo_cli.recipes import is_file, recipe_name, recipe_path
from prepo_cli.reporting.resuming import changed_limits, depends_on_length, differences, reason
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.sections import RunConfig
from strategies.base import SLOTS
from strategies.registry import did_you_mean
from strategies.strategy_set import SLOT_DEFAULTS, resolve_slots

MOST_SEEDS = 1000
LOGS = "logs"


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe by name or file, with slots that replace its own."""

    recipe: str
    slots: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As on the command line, such as `prepo/weighting=uniform`; a file goes by its name."""
        name = recipe_name(self.recipe) if is_file(self.recipe) else self.recipe
        return "/".join([name, *(f"{slot}={spec}" for slot, spec in self.slots.items())])

    @property
    def folder_name(self) -> str:
        """The label with everything that is awkward in file names replaced."""
        return re.sub(r"[^\w.=-]+", "-", self.label)


@dataclass(frozen=True)
class PlannedRun:
    """A run of the study: its folder and its resolved configuration."""

    recipe: str
    seed: int
    folder: Path
    config: RunConfig
    extends: bool = False
    """Whether the folder holds a shorter run, which is then extended."""

    @property
    def finished(self) -> bool:
        """Whether the folder holds the finished run."""
        return (self.folder / "summary.json").is_file()

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds anything."""
        return RunFolder(self.folder).in_use

    @property
    def is_ours(self) -> bool:
        """Whether the folder was made for a run."""
        return RunFolder(self.folder).is_ours

    @property
    def log(self) -> Path:
        """The file that the run's messages go to."""
        return self.folder.parent / LOGS / f"{self.folder.name}.log"

    @property
    def settings(self) -> Path:
        """The file that its process reads the configuration from."""
        return self.log.with_suffix(".yaml")

    @property
    def resumable(self) -> bool:
        """Whether the folder holds a checkpoint of the run."""
        return bool(find_numbered(self.folder, "checkpoints/step-#/state.json"))


def parse_recipes(text: str) -> list[RecipeChoice]:
    """Comma-separated recipes, each followed by slots to replace: `random,prepo/weighting=uniform`.

    The commas and slashes of a strategy's own parameters and path do not separate.

    >>> [choice.label for choice in parse_recipes("random, prepo/weighting=uniform")]
    ['random', 'prepo/weighting=uniform']
    >>> parse_recipes("prepo/selector=ppl-low:ratio=0.5,scope=prompt,dapo")[0].slots
    {'selector': 'ppl-low:ratio=0.5,scope=prompt'}

    Raises:
        UsageError: no such recipe or slot.
    """
    choices = []
    for item in filter(None, (item.strip() for item in re.split(r",(?!\s*\w+=)", text))):
        name, *replacements = re.split(r"/(?=[\w-]+=)", item)
        if not is_file(name):
            name, slash, rest = name.partition("/")
            replacements = [rest, *replacements] if slash else replacements
        recipe_path(name)
        slots = {}
        for replacement in replacements:
            slot, equals, spec = replacement.partition("=")
            if not equals or slot not in SLOTS:
                raise UsageError(
                    f"--recipes {item}: '{replacement}' does not name a "
                    f"slot{did_you_mean(slot, SLOTS)}; write recipe/slot=strategy with one of "
                    f"{', '.join(SLOTS)}"
                )
            slots[slot] = spec
        choices.append(RecipeChoice(name, slots))
    return choices


def ablations(recipe: str) -> list[RecipeChoice]:
    """The recipe, and the recipe with each slot that it sets put back to its default.

    >>> [choice.label for choice in ablations("prepo")]
    ['prepo', 'prepo/selector=random', 'prepo/weighting=uniform']
    """
    slots = resolve_slots(read_recipe(recipe)["strategies"])
    changed = [slot for slot, spec in slots.items() if spec != SLOT_DEFAULTS[slot]]
    return [RecipeChoice(recipe), *(RecipeChoice(recipe, {slot: SLOT_DEFAULTS[slot]}) for slot in changed)]


def parse_seeds(text: str) -> list[int]:
    """Seeds and ranges of seeds.

    >>> parse_seeds("0..2,7")
    [0, 1, 2, 7]

    Raises:
        UsageError: something else than whole numbers of 0 or more.
    """
    seeds: dict[int, None] = {}
    for item in text.split(","):
        first, dots, last = item.strip().partition("..")
        if not first.isdecimal() or not (last if dots else "0").isdecimal():
            raise UsageError(
                f"--seeds: '{item.strip()}' is not a seed; write whole numbers or ranges, such as 0,1,2 or 0..4"
            )
        seeds |= dict.fromkeys(range(int(first), int(last or first) + 1))
        if len(seeds) > MOST_SEEDS:
            raise UsageError(f"--seeds {text}: more than {MOST_SEEDS:,} seeds")
    if not seeds:
        raise UsageError(f"--seeds {text}: the range is empty; write the smaller number first")
    return list(seeds)


def plan(
    choices: Sequence[RecipeChoice],
    seeds: Sequence[int],
    root: Path,
    files: Sequence[Path] = (),
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> list[PlannedRun]:
    """All runs, seed by seed, so that a study that is cut short has every recipe.

    Raises:
        UsageError: a setting is wrong, or a folder holds a run with other settings.
    """
    runs: dict[Path, PlannedRun] = {}
    for seed in seeds:
        for choice in choices:
            folder = root / f"{choice.folder_name}-seed{seed}"
            slots = {f"strategies.{slot}": spec for slot, spec in choice.slots.items()}
            given = {**(flags or {}), "recipe": choice.recipe, **slots, "seed": seed, "output_dir": str(folder)}
            run = PlannedRun(choice.label, seed, folder, resolve(files, given, sets))
            if runs.setdefault(folder, run).config != run.config:
                raise UsageError(f"--recipes: two recipes are called {choice.label}; rename a file")
    return list(map(_checked, runs.values()))


def _checked(run: PlannedRun) -> PlannedRun:
    """The run as it continues what its folder holds; raises UsageError where it can't."""
    refuse_non_folder(run.folder)
    written = run.folder / "config.yaml"
    if not written.is_file():
        if run.is_begun and not run.is_ours:
            raise UsageError(f"{run.folder} contains other files; empty it, or choose another --output-dir")
        return run
    for key, before, now in differences(read_yaml(written), run.config):
        raise UsageError(
            f"{run.folder} contains a run with different settings: {key} is {before!r:.300}, not "
            f"{now!r:.300}, and can't change, because {reason(key)}; choose another --output-dir"
        )
    changed = changed_limits(resolve([written]), run.config)
    if not changed or not (run.finished or run.resumable):
        return run
    why = _why_not_extended(run, changed)
    if why:
        limits = ", ".join(f"training.{name}={before}, not {now}" for name, (before, now) in changed.items())
        raise UsageError(f"{run.folder} contains a run with {limits}, which can't be extended: {why}")
    return replace(run, extends=True)


def _why_not_extended(run: PlannedRun, changed: Mapping[str, tuple[float | None, float | None]]) -> str | None:
    """Why a study can't extend a run so that it is what it would have been with the new limits from the start."""
    if not run.resumable:
        return "it has no checkpoint left; choose another --output-dir"
    if any((now or math.inf) < (before or math.inf) for before, now in changed.values()):
        return "it is longer than that; choose another --output-dir"
    following = " and ".join(depends_on_length(run.config))
    if following:
        return (
            f"with {following} an extended run differs from one of this length from the start; "
            "choose another --output-dir, or extend it yourself with prepo train --resume "
            f"--output-dir {run.folder}"
        )
    return None
