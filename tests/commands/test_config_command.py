"""`prepo config`: every setting with what it means, one of them, JSON, and unknown names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from prepo_cli import reference
from prepo_cli.config import resolve
from prepo_cli.main import app
from prepo_cli.sections import RunConfig
from prepo_cli.sections.engine import ADDRESS_VARIABLE


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, ["config", *arguments], env={"COLUMNS": str(columns)})


def listed(*arguments: str) -> list[dict[str, Any]]:
    shown = run(*arguments, "--json")
    assert shown.exit_code == 0, shown.output
    found: list[dict[str, Any]] = json.loads(shown.stdout)["settings"]
    return found


def leaves(values: dict[str, Any], model: type[BaseModel], place: str = "") -> dict[str, Any]:
    """The settings of a resolved configuration by dotted name, found without pydantic's schema."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        kind = model.model_fields[name].annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        found |= leaves(value, kind, f"{place}{name}.") if section else {f"{place}{name}": value}  # type: ignore[arg-type]
    return found


def test_every_setting_is_listed_with_its_default_and_a_description() -> None:
    others = {"model.model_name_or_path": "some/model", "data.dataset_name": "some/set"}
    plain = resolve(flags=others).model_dump(mode="json")
    expected = leaves(plain, RunConfig) | dict.fromkeys(others, "embedded")
    settings = listed()
    assert [one["name"] for one in settings] == list(expected)
    for one in settings:
        assert one["description"] and one["type"] != "any", one
        by_data = ("output_dir", "evaluation.holdout", "evaluation.limit")  # their descriptions say how
        if not one["required"] and one["name"] not in by_data:
            assert one["default"] == expected[one["name"]], one


def test_defaults_of_the_embedded_model_are_those_of_a_plain_run() -> None:
    expected = leaves(resolve().model_dump(mode="json"), RunConfig)
    for one in listed():
        if not one["required"] and one["name"] != "output_dir":
            assert one["embedded_default"] == expected[one["name"]], one


def test_what_may_change_is_what_resuming_allows() -> None:
    may = {one["name"]: one["may_change_on_resume"] for one in listed()}
    assert may["engine.name"] and may["training.save_steps"] and may["output_dir"]
    assert not may["training.learning_rate"] and not may["seed"] and not may["strategies.selector"]


def test_an_address_with_credentials_is_not_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://me:secret@node:8000")
    assert "secret" not in run().stdout + run("--json").stdout


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_listing_fits_the_terminal_and_cuts_nothing(columns: int) -> None:
    shown = run(columns=columns)
    assert max(map(len, shown.stdout.splitlines())) <= columns
    assert "…" not in shown.stdout
    words = shown.stdout.split()
    for one in listed():
        assert one["name"] in words
    for section in reference.sections():
        assert f"\n{section}: " in f"\n{shown.stdout}"


def test_one_section_and_one_setting() -> None:
    assert {one["section"] for one in listed("training")} == {"training"}
    [rate] = listed("training.learning_rate")
    assert (rate["type"], rate["default"], rate["embedded_default"], rate["bounds"]) == (
        "float",
        1e-6,
        1e-4,
        "> 0, <= 1",
    )
    shown = run("training.learning_rate").stdout
    assert "default  1e-06, 0.0001 with the embedded model" in shown
    assert "bounds   > 0, <= 1" in shown


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learning_rate", "did you mean 'training.learning_rate'?"),
        ("split", "did you mean 'data.split' or 'evaluation.split'?"),
        ("trainig", "did you mean 'training'?"),
        ("training.learnig_rate", "did you mean 'training.learning_rate'?"),
        ("xyz", "sections: general, model, data"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, says: str) -> None:
    shown = run(name, "--json")
    assert shown.exit_code == 2 and shown.stdout == ""
    assert says in shown.stderr and shown.stderr.count("\n") == 1
