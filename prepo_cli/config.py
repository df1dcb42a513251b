"""Resolve a run's configuration from defaults, presets, recipes, YAML files and flags.

Layers, later ones win: defaults, the embedded preset (for the embedded model; its evaluation set, for the embedded
task), the recipe, `--config` files, flags, `--set section.key=value`. An unknown key is an error that suggests the
nearest known one. If neither a recipe nor a slot is set, the recipe is prepo; slots set without a recipe leave the
other slots at their plain defaults. A recipe replaces the slots that earlier layers set. The resolved `recipe` is the
one whose slots match, else `custom`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from prepo_cli import yaml_text
from prepo_cli.errors import UsageError
from prepo_cli.models import LATEST, is_embedded_model, run_named
from prepo_cli.recipes import is_recipe, recipe_name, recipe_path, recipes
from prepo_cli.sections import (
    COST_LIMITS,
    DEFAULT_HOLDOUT,
    DEFAULT_HOLDOUT_LIMIT,
    DEFAULT_RECIPE,
    EMBEDDED,
    RunConfig,
    is_embedded,
)
from prepo_cli.sections.engine import ADDRESS_VARIABLE, EngineConfig
from prepo_cli.text import HIDDEN, brief
from prepo_cli.validation import validated, validation_message
from strategies.base import SLOTS
from strategies.own_code import search
from strategies.registry import did_you_mean, parse, validate
from strategies.strategy_set import resolve_slots

ASSETS = Path(__file__).parent / "assets"
CUSTOM = "custom"
EXAMPLE = "write, for example, strategies: {selector: ppl-schedule}"


def resolve(files: Sequence[Path] = (), flags: Mapping[str, Any] | None = None, sets: Sequence[str] = ()) -> RunConfig:
    """Merge all layers into one validated configuration.

    Args:
        files: YAML files of `--config`, later ones win.
        flags: dotted key -> value; None means not given.
        sets: `section.key=value` items of `--set`.

    Raises:
        UsageError: unreadable file, unknown key or bad value; StrategyError: unknown strategy.
    """
    given: dict[str, Any] = {}
    named: dict[str, Any] = {}
    for layer in (*map(read_yaml, files), _command_line(flags or {}, sets)):
        _refuse_unknown(layer, RunConfig)
        if layer.get("recipe"):
            given.pop("strategies", None)
            named = layer
        merge(given, layer)
    _follow_latest(given)

    if isinstance(code_dir := given.get("code_dir"), str):
        search(Path(str(given.get("output_dir") or "")) / code_dir)
    layers: dict[str, Any] = {}
    preset = read_yaml(ASSETS / "embedded.yaml")
    embedded_test = preset.pop("evaluation")
    if is_embedded_model(str(_get(given, "model.model_name_or_path", EMBEDDED))):
        merge(layers, preset)
    if is_embedded(str(_get(given, "data.dataset_name", EMBEDDED))):
        layers["evaluation"] = embedded_test
    chosen = dict(given.get("strategies") or {})
    name = str(given.get("recipe") or (CUSTOM if chosen else DEFAULT_RECIPE))
    recipe = _recipe(name, named)
    own = recipe.pop("strategies")
    slots = resolve_slots(own, {slot: str(text) for slot, text in chosen.items()})
    merge(layers, recipe)
    merge(layers, given)
    _drop_default_steps(layers, given)
    _hold_out_by_default(layers.setdefault("evaluation", {}))
    for slot, text in slots.items():
        if slot in SLOTS:
            validate(slot, text)
    layers |= {"strategies": slots, "recipe": _label(slots, recipe_name(name), resolve_slots(own))}
    config = validated(RunConfig, layers)
    _restore_address(config.engine)
    _remember_code(config)
    return config


def sections_of(sets: Sequence[str], **sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by section, overridden by `--set section.key=value` items; raises UsageError for other sections."""
    given = {name: dict(settings) for name, settings in sections.items()}
    for item in sets:
        key, equals, text = item.partition("=")
        name, dot, _ = key.strip().partition(".")
        if not equals or not dot or name not in given:
            known = " and ".join(f"--set {section}.key=value" for section in given)
            raise UsageError(f"--set {brief(item)}: this command accepts only {known}; use flags for everything else")
        _assign(given, key.strip(), _yaml_value(text, f"--set {item}"))
    _refuse_unknown(given, RunConfig)
    return given


def template_arguments(items: Sequence[str]) -> dict[str, Any]:
    """`--template-arg key=value` items as keyword arguments of the chat template; raises UsageError if malformed."""
    found = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--template-arg {brief(item)}: write key=value, for example enable_thinking=false")
        found[key.strip()] = _yaml_value(text, f"--template-arg {item}")
    return found


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe's settings, its `strategies` among them.

    Raises:
        UsageError: there is no such recipe, or the file is not a recipe.
    """
    path = recipe_path(name)
    content = read_yaml(path, EXAMPLE)
    _refuse_unknown(content, RunConfig)
    if not content.get("strategies"):
        raise UsageError(f"{path} is not a recipe: it sets no slot; {EXAMPLE}, or pass it with --config")
    if "recipe" in content:
        raise UsageError(
            f"{path}: a recipe can't refer to another one; remove its setting 'recipe', or pass it with --config"
        )
    return content | {"strategies": {slot: str(text) for slot, text in content["strategies"].items()}}


def read_yaml(path: Path, cure: str = "write, for example, training: {total_steps: 100}") -> dict[str, Any]:
    """Read a YAML mapping; raises UsageError if the file is missing or is not one; the message ends with `cure`."""
    try:
        loaded = yaml_text.read(path)
    except FileNotFoundError:
        raise UsageError(f"no such configuration file: {path}") from None
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except yaml_text.YamlError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} is not a mapping of sections; {cure}")
    return loaded


def to_yaml(config: BaseModel) -> str:
    """The configuration as YAML, in the order of its fields."""
    return yaml_text.dump(config.model_dump(mode="json"))


def merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge `layer` into `into`, section by section; values of `layer` win.

    >>> config = {"training": {"total_steps": 5, "beta": 0.0}}
    >>> merge(config, {"training": {"total_steps": 6}, "seed": 1})
    >>> config
    {'training': {'total_steps': 6, 'beta': 0.0}, 'seed': 1}
    """
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _restore_address(engine: EngineConfig) -> None:
    """Restore the credentials of an address that was stored without them, from the environment."""
    if HIDDEN in engine.vllm_server_base_url and ADDRESS_VARIABLE in os.environ:
        try:
            engine.vllm_server_base_url = os.environ[ADDRESS_VARIABLE]
        except ValidationError as error:
            raise UsageError(validation_message(error)) from error


def _remember_code(config: RunConfig) -> None:
    """Note where the user's own code was found, so that the run can be resumed from any folder."""
    named = [spec.name for text in config.strategies.model_dump().values() for spec in parse(text)]
    if config.code_dir is None and any(":" in name for name in [*named, *config.rewards.functions]):
        config.code_dir = os.path.relpath(Path.cwd(), os.path.realpath(config.output_dir))


def _drop_default_steps(layers: dict[str, Any], given: Mapping[str, Any]) -> None:
    """A run with a cost limit has no limit on steps unless one is set."""
    training = layers.setdefault("training", {})
    limited = any(training.get(limit) is not None for limit in COST_LIMITS)
    if limited and _get(given, "training.total_steps", None) is None:
        training["total_steps"] = None


def _hold_out_by_default(evaluation: dict[str, Any]) -> None:
    """Prompts are held out unless an evaluation set is named, or null is given for it."""
    if "dataset_name" not in evaluation:
        evaluation.setdefault("holdout", DEFAULT_HOLDOUT)
    if evaluation.get("dataset_name") is None and evaluation.get("holdout"):
        evaluation.setdefault("limit", DEFAULT_HOLDOUT_LIMIT)


def _command_line(flags: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """What flags and `--set` items give."""
    given: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            _assign(given, key, value)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {brief(item)}: write section.key=value, for example training.learning_rate=1e-5")
        _assign(given, key.strip(), _yaml_value(text, f"--set {item}"))
    return given


def _follow_latest(given: dict[str, Any]) -> None:
    """Replace `latest` by the run that it currently points to."""
    for key in ("model.model_name_or_path", "output_dir"):
        name = _get(given, key, None)
        if isinstance(name, str) and (key != "output_dir" or name != LATEST.name):
            _assign(given, key, run_named(name))


def _recipe(name: str, layer: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings; a name that `layer` gives with all slots, as a run's configuration does, needs no file."""
    slots = layer.get("strategies") or {}
    if name == CUSTOM or (not is_recipe(name) and set(SLOTS) <= set(slots)):
        return {"strategies": {slot: str(text) for slot, text in slots.items()} if name != CUSTOM else {}}
    return read_recipe(name)


def _label(slots: dict[str, str], requested: str, own: dict[str, str]) -> str:
    """The recipe with exactly these slots: the requested one, if these are its `own`, or any; `custom` if none has."""
    known = recipes()
    if slots == own and requested and requested not in (CUSTOM, *known):
        return requested
    for name in sorted(known, key=lambda name: name != requested):
        if resolve_slots(_shipped(name)) == slots:
            return name
    return CUSTOM


@cache
def _shipped(name: str) -> dict[str, str]:
    """The slots that a shipped recipe sets; reading them all takes longer than everything else here."""
    return dict(read_recipe(name)["strategies"])


def _refuse_unknown(given: Mapping[str, Any], model: type[BaseModel], place: str = "") -> None:
    for key, value in given.items():
        fields = model.model_fields
        if key not in fields:
            hint = _hint_from_other_sections(key) or did_you_mean(key, fields, place)
            raise UsageError(f"unknown setting '{brief(place + key)}'{hint or '; known: ' + ', '.join(fields)}")
        kind = fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise UsageError(f"'{place}{key}' is a section; set {place}{key}.<setting> instead")
            _refuse_unknown(value, kind, f"{place}{key}.")


def _hint_from_other_sections(key: str) -> str:
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return f" (did you mean '{name}.{key}'?)"
    return ""


def _assign(into: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    if len(sections) > yaml_text.MAX_DEPTH:
        raise UsageError(
            f"'{brief(dotted)}' is nested more than {yaml_text.MAX_DEPTH} levels deep; set section.key=value"
        )
    for section in sections:
        into = into.setdefault(section, {})
        if not isinstance(into, dict):
            raise UsageError(f"'{brief(dotted)}': '{section}' is a setting, not a section; set section.key=value")
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
        return yaml_text.parse(text)
    except yaml_text.YamlError as error:
        raise UsageError(f"{brief(item)} is not valid YAML: {error}") from error
