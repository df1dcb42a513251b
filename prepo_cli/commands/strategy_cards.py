"""Strategy classes as plain data, as `prepo strategies` prints them."""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import entry_points
from typing import Any

from prepo_cli.reference import fields
from strategies.base import Strategy
from strategies.registry import ENTRY_POINT_GROUP, Spec, describe


def card(cls: type[Strategy]) -> dict[str, Any]:
    """Slot, name, description, paper, companions, package and parameters of a strategy."""
    return {
        "slot": cls.slot,
        "name": cls.name,
        "description": describe(cls),
        "paper": cls.paper,
        "companions": dict(cls.companions),
        "package": package_of(cls),
        "parameters": fields(cls.Params),
    }


def details(cls: type[Strategy], name: str) -> dict[str, Any]:
    """The fields that a detailed description adds to the card; `name` is what the example calls the strategy."""
    first = next((p for p in fields(cls.Params)[:1] if p["default"] is not None), None)
    return {
        "documentation": inspect.getdoc(cls) or "",
        "method": inspect.getdoc(sys.modules[cls.__module__]) or "",
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "example": str(Spec(name, {first["name"]: first["default"]} if first else {})),
    }


def package_of(cls: type[Strategy]) -> str:
    """The distribution whose entry point registered the class, else its top-level module."""
    top = cls.__module__.partition(".")[0]
    points = entry_points(group=ENTRY_POINT_GROUP)
    exact = [point for point in points if point.module == cls.__module__]
    near = [point for point in points if point.module.partition(".")[0] == top]
    owner = next((point.dist for point in [*exact, *near] if point.dist), None)
    if owner is not None:
        return owner.name
    return "prepo" if top == "strategies" else top
