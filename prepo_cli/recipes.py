"""Recipes by name or file, the shipped ones and the user's own; config.py reads their contents."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prepo_cli.errors import UsageError
from prepo_cli.text import brief
from strategies.registry import did_you_mean

ALIASES = {"full": "grpo"}
"""Other names of recipes, for `--recipe`; what is written and shown has the names on the right."""
FILES = (".yaml", ".yml")
LONGEST_NAME = 80


def recipes() -> dict[str, Path]:
    """All recipes: names and files."""
    here = Path(__file__).parent
    folder = next(d for d in (here / "recipes", here.parent / "examples" / "recipes") if d.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a recipe, by its name or its own path; raises UsageError with the nearest name if there is none."""
    if is_file(name):
        if not os.path.isfile(name):
            raise UsageError(f"no such recipe file: {brief(name)}")
        return Path(name)
    known = recipes()
    found = known.get(ALIASES.get(name, name))
    if found is None:
        names = [*known, *ALIASES]
        hint = f"; for the file, write {name}.yaml" if os.path.isfile(f"{name}.yaml") else did_you_mean(name, names)
        raise UsageError(f"unknown recipe '{brief(name)}'{hint}; known: {', '.join(known)}, or a path ending in .yaml")
    return found


def recipe_name(name: str) -> str:
    """What a recipe that is given by a name or a path is called.

    >>> recipe_name("full"), recipe_name("my recipes/no noise.yaml")
    ('grpo', 'no-noise')
    """
    stem = Path(name).stem if is_file(name) else name
    return ALIASES.get(stem, re.sub(r"[^\w.=+-]+", "-", stem)[:LONGEST_NAME])


def is_file(name: str) -> bool:
    """Whether a recipe is given as a file of the user's rather than by name."""
    return name.endswith(FILES)


def is_recipe(name: str) -> bool:
    """Whether this is a recipe's name rather than a file."""
    return is_file(name) or ALIASES.get(name, name) in recipes()
