"""Strategy classes as plain data, as `prepo strategies` prints them."""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import entry_points
from typing import Any

from strategies.base import Strategy
from strategies.registry import ENTRY_POINT_GROUP, Spec, describe

BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
TYPES = {"number": "float", "integer": "int", "boolean": "bool", "string": "text", "null": "null", "array": "list"}


def card(cls: type[Strategy]) -> dict[str, Any]:
    """Slot, name, description, paper, companions, package and parameters of a strategy."""
    return {
        "slot": cls.slot,
        "name": cls.name,
        "description": describe(cls),
        "paper": cls.paper,
        "companions": dict(cls.companions),
        "package": package_of(cls),
        "parameters": parameters_of(cls),
    }


def details(cls: type[Strategy], name: str) -> dict[str, Any]:
    """The fields that a detailed description adds to the card; `name` is what the example calls the strategy."""
    first = next((p for p in parameters_of(cls)[:1] if p["default"] is not None), None)
    return {
        "documentation": inspect.getdoc(cls) or "",
        "method": inspect.getdoc(sys.modules[cls.__module__]) or "",
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "example": str(Spec(name, {first["name"]: first["default"]} if first else {})),
    }


def parameters_of(cls: type[Strategy]) -> list[dict[str, Any]]:
    """Name, type, default, bounds and description of each parameter, from its pydantic model."""
    properties = cls.Params.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "type": " | ".join(_type(variant) for variant in _variants(schema)),
            "default": schema.get("default"),
            "bounds": ", ".join(
                f"{sign} {variant[key]:g}"
                for variant in _variants(schema)
                for key, sign in BOUNDS.items()
                if key in variant
            ),
            "description": schema.get("description", ""),
        }
        for name, schema in properties.items()
    ]


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


def _variants(schema: dict[str, Any]) -> list[dict[str, Any]]:
    variants: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return variants


def _type(variant: dict[str, Any]) -> str:
    if "enum" in variant:
        return " | ".join(map(str, variant["enum"]))
    return str(variant.get("const", TYPES.get(variant.get("type", ""), variant.get("type", "any"))))
