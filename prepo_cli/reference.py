"""All settings as plain data, for the commands and pages that list them; pydantic's fields are the only source."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from prepo_cli.config import ASSETS, read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.sections import MAY_CHANGE, RunConfig
from prepo_cli.text import brief
from strategies.registry import did_you_mean

BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
TYPES = {
    "number": "float", "integer": "int", "boolean": "bool", "string": "text", "null": "null", "array": "list",
    "object": "mapping",
}  # fmt: skip
GENERAL = "general"
"""What the settings outside all sections are listed under."""


def fields(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, type, default, bounds and description of each field of a model without sections.

    >>> from prepo_cli.sections import ModelConfig
    >>> next(field for field in fields(ModelConfig) if field["name"] == "lora_r")
    {'name': 'lora_r', 'type': 'int', 'default': 16, 'bounds': '>= 1, <= 65536', 'description': 'LoRA rank'}
    """
    properties = model.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "type": " | ".join(_type(variant) for variant in _variants(schema)),
            "default": schema.get("default"),
            "bounds": ", ".join(
                f"{sign} {_bound(variant[key])}"
                for variant in _variants(schema)
                for key, sign in BOUNDS.items()
                if key in variant
            ),
            "description": schema.get("description", ""),
        }
        for name, schema in properties.items()
    ]


def sections() -> dict[str, str]:
    """Each section of a run's configuration with its description; `general` covers settings outside all sections."""
    return {GENERAL: "Recipe, seed and folders."} | {
        name: " ".join((kind.__doc__ or "").split("\n\n")[0].split()) for name, kind in _kinds().items()
    }


def settings() -> list[dict[str, Any]]:
    """Every setting of a run by its dotted name, in the order of the configuration file.

    Besides what `fields` gives: the section, the default with the embedded model, whether the default comes from the
    recipe, and whether a resumed run may change it.
    """
    found = [*_settings(RunConfig, GENERAL, loose=False)]
    for section, kind in _kinds().items():
        found += _settings(kind, section, loose=MAY_CHANGE in RunConfig.model_fields[section].metadata)
    return found


def selected(name: str | None) -> list[dict[str, Any]]:
    """The settings of a section, the one of that dotted name, or all.

    Raises:
        UsageError: no such section or setting; the message suggests similar names.
    """
    everything = settings()
    found = [setting for setting in everything if name in (None, setting["section"], setting["name"])]
    if not found:
        names = [setting["name"] for setting in everything]
        same = [full for full in names if full.rpartition(".")[2] == name]
        hint = (
            f" (did you mean {' or '.join(map(repr, same))}?)"
            if same
            else did_you_mean(str(name), [*sections(), *names])
        )
        raise UsageError(f"unknown section or setting '{brief(str(name))}'{hint}; sections: {', '.join(sections())}")
    return found


def default_of(setting: dict[str, Any]) -> list[str]:
    """A setting's default as text and, with a star, that with the embedded model where it is another one.

    >>> default_of({"required": False, "default": 1e-6, "embedded_default": 1e-4})
    ['1e-06', '0.0001*']
    """
    if setting["required"]:
        return ["the recipe's"]
    plain, embedded = (_text(setting[key]) for key in ("default", "embedded_default"))
    return [plain] if plain == embedded else [plain, f"{embedded}*"]


def _settings(model: type[BaseModel], section: str, *, loose: bool) -> Iterator[dict[str, Any]]:
    preset = read_yaml(ASSETS / "embedded.yaml").get(section, {})
    for field in fields(model):
        info = model.model_fields[field["name"]]
        if section == GENERAL and field["name"] in _kinds():
            continue
        yield {
            "section": section,
            **field,
            "name": field["name"] if section == GENERAL else f"{section}.{field['name']}",
            "embedded_default": preset.get(field["name"], field["default"]),
            "required": info.is_required(),
            "may_change_on_resume": loose or MAY_CHANGE in info.metadata,
        }


def _kinds() -> dict[str, type[BaseModel]]:
    kinds = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _variants(schema: dict[str, Any]) -> list[dict[str, Any]]:
    variants: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return variants


def _text(value: Any) -> str:
    """A value as written in a YAML file or with `--set`."""
    return value if isinstance(value, str) else json.dumps(value)


def _bound(value: float) -> str:
    if value >= 2**53:
        return f"2^{math.log2(value):g}"
    return f"{value:g}" if float(f"{value:g}") == value else f"{value:.12g}"


def _type(variant: dict[str, Any]) -> str:
    if "enum" in variant:
        return " | ".join(map(str, variant["enum"]))
    if "enum" in variant.get("items", {}):
        return f"list of {', '.join(variant['items']['enum'])}"
    return str(variant.get("const", TYPES.get(variant.get("type", ""), variant.get("type", "any"))))
