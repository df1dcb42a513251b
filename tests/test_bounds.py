"""Every setting that is a number has finite bounds, and what lies outside is refused in one line that names it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.settings import EvalConfig, PassRateConfig, ScoringConfig
from prepo_cli.main import main
from prepo_cli.sections import RunConfig
from strategies import registry
from strategies.base import StrategyParams
from strategies.errors import StrategyError

HUGE = [".inf", "-.inf", ".nan", "1e308", "1" + "0" * 400]


def numbers(annotation: Any, metadata: list[Any]) -> Iterator[list[Any]]:
    """The constraints of every number in an annotation, which may be a union or a list."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from numbers(inner, metadata + [m for part in more for m in getattr(part, "metadata", [part])])
    elif annotation in (int, float):
        yield metadata
    else:
        for inner in get_args(annotation):
            yield from numbers(inner, metadata)


def fields(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{place}{name}.")
        elif list(numbers(kind, [])):
            yield f"{place}{name}", field


def unbounded(model: type[BaseModel]) -> list[str]:
    found = []
    for name, field in fields(model):
        for constraints in numbers(field.annotation, field.metadata):
            above = [getattr(c, "le", getattr(c, "lt", None)) for c in constraints]
            below = [getattr(c, "ge", getattr(c, "gt", None)) for c in constraints]
            if not all(any(b is not None and math.isfinite(b) for b in bounds) for bounds in (above, below)):
                found.append(name)
    return found


SETTINGS = sorted(name for name, _ in fields(RunConfig))
PARAMETERS = [(cls.slot, cls.name, parameter) for cls in registry.listed() for parameter, _ in fields(cls.Params)]


@pytest.mark.parametrize("model", [RunConfig, EvalConfig, PassRateConfig, ScoringConfig])
def test_every_number_has_both_bounds(model: type[BaseModel]) -> None:
    assert unbounded(model) == []


def test_the_test_sees_a_missing_bound() -> None:
    class Loose(StrategyParams):
        a: int = 0
        b: Annotated[float, annotated_types.Ge(0)] | None = None
        c: list[float] | None = None
        d: Annotated[int, annotated_types.Interval(ge=0, le=1)] = 0

    assert unbounded(Loose) == ["a", "b", "c"]


@pytest.mark.parametrize("value", HUGE)
def test_every_setting_refuses_it(value: str) -> None:
    for name in SETTINGS:
        given = f"[{value}]" if name == "rewards.weights" else value
        with pytest.raises(UsageError) as raised:
            resolve(sets=[f"{name}={given}"])
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


def test_numbers_that_are_out_of_proportion_together_are_refused() -> None:
    sets = ["training.prompts_per_step=1000000", "training.num_generations=60000"]
    with pytest.raises(UsageError, match=r"60,000,000,000 rollouts per step; reduce one"):
        resolve(sets=sets)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "Infinity", "NaN", "1e308", "1" + "0" * 400])
def test_every_parameter_of_a_strategy_refuses_it(value: str) -> None:
    for slot, name, parameter in PARAMETERS:
        with pytest.raises(StrategyError) as raised:
            registry.validate(slot, f"{name}:{parameter}={value}")
        assert name in str(raised.value)
        assert parameter in str(raised.value)


def test_every_parameter_of_a_strategy_has_both_bounds() -> None:
    assert {cls.name: found for cls in registry.listed() if (found := unbounded(cls.Params))} == {}


COMMANDS = [
    ["train", "--set", "training.learning_rate=1e6"],
    ["train", "--max-seconds", "inf"],
    ["train", "--selector", "calibrated:half_life=inf"],
    ["train", "--set", "training.num_generations=1000000000000"],
    ["eval", "--temperature", "inf"],
    ["eval", "--temperature", "1e308"],
    ["eval", "--top-p", "nan"],
    ["eval", "--seed", "1" + "0" * 40],
    ["eval", "--k", "1" + "0" * 40],
    ["eval", "--limit", "1" + "0" * 40],
    ["score-passrate", "embedded", "--output", "scored.jsonl", "--temperature", "nan"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:3])[:60])
def test_commands_end_with_exit_code_2_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("prepo: ")
    assert "\n" not in said
    assert arguments[-2].strip("-").replace("-", "_").split("=")[0] in said or arguments[-1].split("=")[0] in said
