"""How a run's configuration comes about: YAML layers, recipes, flags and overrides over the sections' defaults.

Layers, later ones win: defaults, the embedded preset (for the embedded model), the recipe, `--config` files, flags,
`--set section.key=value`. An unknown key is an error that names the nearest known one. Without a recipe and without
any slot the recipe is prepo; slots without a recipe start from the plain ones. `recipe` names what came out: a
recipe whose slots these are, else `custom`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prepo_cli.errors import UsageError
from prepo_cli.sections import DEFAULT_RECIPE, EMBEDDED, RunConfig
from strategies.base import SLOTS
from strategies.registry import did_you_mean, validate
from strategies.strategy_set import resolve_slots

ASSETS = Path(__file__).parent / "assets"
CUSTOM = "custom"


def resolve(files: Sequence[Path] = (), flags: Mapping[str, Any] | None = None, sets: Sequence[str] = ()) -> RunConfig:
    """Merge all layers into one checked configuration.

    Args:
        files: YAML files of `--config`, later ones win.
        flags: dotted key -> value; None means not given.
        sets: `section.key=value` items of `--set`.

    Raises:
        UsageError: unreadable file, unknown key, bad value; StrategyError: a slot names no known strategy.
    """
    given: dict[str, Any] = {}
    for path in files:
        merge(given, read_yaml(path))
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(given, key, value)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: write section.key=value, for example training.learning_rate=1e-5")
        _assign(given, key.strip(), _yaml_value(text, item))
    _refuse_unknown(given, RunConfig)

    layers: dict[str, Any] = {}
    if _get(given, "model.model_name_or_path", EMBEDDED) == EMBEDDED:
        merge(layers, read_yaml(ASSETS / "embedded.yaml"))
        if _get(given, "data.dataset_name", EMBEDDED) != EMBEDDED:
            layers.pop("evaluation", None)
    chosen = dict(given.get("strategies") or {})
    name = str(given.get("recipe") or (CUSTOM if chosen else DEFAULT_RECIPE))
    recipe = {} if name == CUSTOM else read_yaml(recipe_path(name))
    slots = resolve_slots(recipe.pop("strategies", {}), {slot: str(text) for slot, text in chosen.items()})
    merge(layers, recipe)
    merge(layers, given)
    for slot, text in slots.items():
        if slot in SLOTS:
            validate(slot, text)
    layers |= {"strategies": slots, "recipe": _recipe_of(slots, name)}
    try:
        return RunConfig.model_validate(layers)
    except ValidationError as error:
        raise UsageError(validation_message(error)) from error


def section_of(name: str, sets: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` of one section with `--set name.key=value` items laid over; raises UsageError for other sections."""
    given: dict[str, Any] = {name: dict(settings)}
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals or not key.startswith(f"{name}."):
            raise UsageError(f"--set {item}: this command takes --set {name}.key=value only; the rest are flags")
        _assign(given, key.strip(), _yaml_value(text, item))
    _refuse_unknown(given, RunConfig)
    section: dict[str, Any] = given[name]
    return section


def template_arguments(items: Sequence[str]) -> dict[str, Any]:
    """`--template-arg key=value` items as the chat template is given them; raises UsageError for another form."""
    for item in items:
        if "=" not in item:
            raise UsageError(f"--template-arg {item}: write key=value, for example enable_thinking=false")
    return {key.strip(): _yaml_value(text, f"{key}={text}") for key, _, text in (i.partition("=") for i in items)}


def recipes() -> dict[str, Path]:
    """Names and files of all recipes."""
    here = Path(__file__).parent
    folder = next(d for d in (here / "recipes", here.parent / "examples" / "recipes") if d.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a recipe; raises UsageError with the nearest name."""
    known = recipes()
    if name not in known:
        raise UsageError(f"no recipe '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return known[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises UsageError if there is none."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no mapping of sections")
    return loaded


def to_yaml(config: BaseModel) -> str:
    """The configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay `layer` over `into`, section by section."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def validation_message(error: ValidationError) -> str:
    """The first fault of a pydantic error as one line."""
    first = error.errors()[0]
    if not first["loc"]:  # about several settings, which the message names
        return first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}={json.dumps(first['input'], default=str)}: {first['msg']}"


def _recipe_of(slots: dict[str, str], asked: str) -> str:
    """The recipe with exactly these slots, the one asked for first; `custom` if there is none."""
    for name in sorted(recipes(), key=lambda name: name != asked):
        if resolve_slots(read_yaml(recipe_path(name)).get("strategies", {})) == slots:
            return name
    return CUSTOM


def _refuse_unknown(given: Mapping[str, Any], model: type[BaseModel], place: str = "") -> None:
    for key, value in given.items():
        fields = model.model_fields
        if key not in fields:
            hint = did_you_mean(key, fields) or _elsewhere(key)
            raise UsageError(f"unknown setting '{place}{key}'{hint}; known: {', '.join(fields)}")
        kind = fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise UsageError(f"'{place}{key}' is a section: write {place}{key}.<setting>")
            _refuse_unknown(value, kind, f"{place}{key}.")


def _elsewhere(key: str) -> str:
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return f", did you mean '{name}.{key}'?"
    return ""


def _assign(into: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        into = into.setdefault(section, {})
        if not isinstance(into, dict):
            raise UsageError(f"'{dotted}': '{section}' is not a section")
    into[key] = value


def _get(given: Mapping[str, Any], dotted: str, default: Any) -> Any:
    value: Any = given
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def _yaml_value(text: str, item: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {item} is not readable YAML: {' '.join(str(error).split())}") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value
