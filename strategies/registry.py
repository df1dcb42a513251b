"""Registry of strategies: `@register("name")`, entry points, and classes by path.

Built-ins are found through the entry-point group `prepo.strategies`, like any plug-in. A spec is
`name:key=value,key=value`; selectors chain with `+`: `greso+ppl-schedule:ratio=0.25`. A name may be the path of a
class, `package.module:Class` or `path/to/file.py:Class` (own_code.py).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError

from strategies.base import SLOTS, Selector, Strategy, StrategyParams
from strategies.chain import Chain
from strategies.errors import StrategyError, fault
from strategies.own_code import import_fault, load
from strategies.types import RunInfo

ENTRY_POINT_GROUP = "prepo.strategies"
S = TypeVar("S", bound=type[Strategy])
_registered: dict[tuple[str, str], type[Strategy]] = {}


@dataclass(frozen=True)
class Spec:
    """A strategy's name and the parameters given with it."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        values = ",".join(f"{key}={_plain(value)}" for key, value in self.params.items())
        return f"{self.name}:{values}" if values else self.name


def register(name: str) -> Callable[[S], S]:
    """Class decorator that registers a strategy under `name` in the slot of its kind.

    Raises:
        StrategyError: another class has the name, or the class belongs to no slot.
    """

    def enter(cls: S) -> S:
        slot = getattr(cls, "slot", None)
        if slot not in SLOTS:
            raise StrategyError(f"{_where(cls)} belongs to no slot; derive it from {_kinds()}")
        taken = _registered.get((slot, name))
        if taken is not None and _where(taken) != _where(cls):
            raise StrategyError(
                f"two strategies are registered as {slot} '{name}': {_where(taken)} and {_where(cls)}; rename one"
            )
        cls.name = name
        _registered[slot, name] = cls
        return cls

    return enter


def parse(text: str) -> list[Spec]:
    """Specs of a chain, in order.

    >>> parse("greso+ppl-schedule:ratio=0.25,scope=prompt")
    [Spec(name='greso', params={}),
     Spec(name='ppl-schedule', params={'ratio': 0.25, 'scope': 'prompt'})]
    >>> str(parse("my_package.my_module:MySelector:ratio=0.5")[0])
    'my_package.my_module:MySelector:ratio=0.5'

    Raises:
        StrategyError: an empty part, a parameter without '=' or one that is given twice.
    """
    specs = []
    for part in text.split("+"):
        dotted = _dotted(part)
        name, _, rest = part.partition(":") if not dotted else (dotted, ":", part[len(dotted) + 1 :])
        params: dict[str, Any] = {}
        for item in filter(None, (i.strip() for i in rest.split(","))):
            key, equals, value = item.partition("=")
            if not equals:
                raise StrategyError(
                    f"'{_short(item)}' in '{_short(text)}' is not of the form key=value; write name:key=value,key=value"
                )
            if key.strip() in params:
                raise StrategyError(f"'{_short(text)}' sets '{_short(key.strip())}' twice; set it once")
            params[key.strip()] = _value(value.strip())
        if not name.strip():
            raise StrategyError(f"'{_short(text)}' names no strategy; write name or name:key=value")
        specs.append(Spec(name.strip(), params))
    return specs


def find(slot: str, name: str) -> type[Strategy]:
    """The class registered as `name`, or the class at `package.module:Class` or `path/to/file.py:Class`.

    Raises:
        StrategyError: no such strategy (the message suggests the nearest name), or the path fails to import.
    """
    if ":" in name:
        return import_strategy(name, slot)
    load_plugins()
    if (slot, name) in _registered:
        return _registered[slot, name]
    names = [n for s, n in _registered if s == slot]
    other_slots = [s for s, n in _registered if n == name]
    hint = f" ('{name}' is a {other_slots[0]})" if other_slots else suggestion(name, names)
    raise StrategyError(f"unknown {slot} '{_short(name)}'{hint}; known: {', '.join(sorted(names))}")


def import_strategy(path: str, slot: str | None = None) -> type[Strategy]:
    """The class at `package.module:Class` or `path/to/file.py:Class`, of this slot or of any.

    Raises:
        StrategyError: it fails to import, or is not a strategy for the slot.
    """
    try:
        cls = load(path)
    except (Exception, SystemExit) as error:  # the user's own module may raise anything
        raise StrategyError(f"{slot or 'strategy'} '{_short(path)}' {import_fault(error)}") from error
    kinds = (SLOTS[slot],) if slot else tuple(SLOTS.values())
    if not (inspect.isclass(cls) and issubclass(cls, kinds)):
        kind, base = (SLOTS[slot].__name__, f"strategies.{SLOTS[slot].__name__}") if slot else ("strategy", _kinds())
        raise StrategyError(f"'{_short(path)}' is not a {kind}; derive it from {base}")
    if "name" not in vars(cls):  # a subclass of a registered strategy is not that strategy
        cls.name = path.rpartition(":")[2]
    found: type[Strategy] = cls
    return found


def create(slot: str, text: str, run: RunInfo) -> Strategy:
    """Build the strategy (or chain of selectors) that `text` names.

    >>> run = RunInfo(num_prompts=100, total_steps=10, prompts_per_step=2, num_generations=4)
    >>> create("selector", "greso+ppl-schedule", run).name
    'greso+ppl-schedule'
    >>> create("selector", "ppl-shedule", run)
    Traceback (most recent call last):
        ...
    strategies.errors.StrategyError: unknown selector 'ppl-shedule' (did you mean 'ppl-schedule'?); known: ...

    Raises:
        StrategyError: unknown name, unknown or out-of-range parameter, or parameters that make no sense for this run.
    """
    specs = parse(text)
    built = [_build(find(slot, spec.name), spec, run) for spec in specs]
    if len(built) == 1:
        return built[0]
    if slot != "selector":
        raise StrategyError(f"only selectors can be chained with '+', not a {slot}: '{text}'; choose one")
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise StrategyError(f"'{text}' chains a selector with itself; name each selector once")
    return Chain([s for s in built if isinstance(s, Selector)], run)


def companions(slot: str, text: str) -> dict[str, str]:
    """Specs for other slots that come with the strategies in `text`; the first of a chain wins."""
    found: dict[str, str] = {}
    for spec in parse(text):
        for other, name in find(slot, spec.name).companions.items():
            found.setdefault(other, name)
    return found


def reads_progress(slot: str, text: str) -> bool:
    """Whether any of the strategies in `text` follows the run's progress.

    >>> reads_progress("selector", "greso+ppl-schedule"), reads_progress("selector", "greso+ppl-low")
    (True, False)
    """
    return any(find(slot, spec.name).reads_progress for spec in parse(text))


def listed() -> list[type[Strategy]]:
    """Every registered strategy, sorted by slot and name."""
    load_plugins()
    order = list(SLOTS)
    return [_registered[key] for key in sorted(_registered, key=lambda k: (order.index(k[0]), k[1]))]


def describe(cls: type[Strategy]) -> str:
    """The first line of the class docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The suggestion " (did you mean 'x'?)", with `prefix` before it, or an empty string."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean '{prefix}{near[0]}'?)" if near else ""


def suggestion(name: str, names: Iterable[str]) -> str:
    """What a strategy's name may have meant: the class in a file, or the closest name."""
    return f"; name its class: {name}:Class" if name.endswith(".py") else did_you_mean(name, names)


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import every module of the entry-point group, built-ins first.

    Raises:
        StrategyError: a plug-in fails to import; the message names its package.
    """
    importlib.import_module("strategies.builtins")
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        try:
            point.load()
        except StrategyError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in's module may raise anything
            package = point.dist.name if point.dist else "?"
            raise StrategyError(
                f"plug-in '{point.name}' ({point.value}, package {package}) fails to import: "
                f"{type(error).__name__}: {error}; fix it or uninstall {package}"
            ) from error


def validate(slot: str, text: str) -> None:
    """Raise StrategyError if names or parameters are wrong, without building anything."""
    for spec in parse(text):
        _params(find(slot, spec.name), spec)


def _build(cls: type[Strategy], spec: Spec, run: RunInfo) -> Strategy:
    params = _params(cls, spec)
    cls.check(params, run)
    return cls(params, run)


def _params(cls: type[Strategy], spec: Spec) -> StrategyParams:
    known = list(cls.Params.model_fields)
    for key in spec.params:
        if key not in known:
            raise StrategyError(
                f"unknown parameter '{_short(key)}' of {cls.slot} '{cls.name}'{did_you_mean(key, known)}; "
                f"known: {', '.join(known) or 'none'}"
            )
    try:
        return cls.Params.model_validate(dict(spec.params))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "parameters"
        given = _short(repr(first["input"]))
        raise StrategyError(f"{cls.slot} '{cls.name}': {place}={given}: {fault(first)}") from error


def _dotted(part: str) -> str | None:
    """The leading 'package.module:Class' of a spec, if it has one."""
    pieces = part.split(":")
    if len(pieces) >= 2 and "=" not in pieces[1] and pieces[1].strip():
        return ":".join(pieces[:2])
    return None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # text, a number with thousands of digits, or nested that deep
        return text


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _where(cls: type[Strategy]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _kinds() -> str:
    return "one of " + ", ".join(kind.__name__ for kind in SLOTS.values())


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
