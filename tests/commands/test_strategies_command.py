"""`prepo strategies`: the listing, the details of one, JSON, and unknown names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from prepo_cli.config import resolve
from prepo_cli.main import app
from prepo_cli.recipes import recipes
from strategies import registry
from strategies.base import SLOTS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["strategies", *arguments], env={"COLUMNS": "160"})


def cards(*arguments: str) -> list[dict[str, Any]]:
    shown = run(*arguments, "--json")
    assert shown.exit_code == 0, shown.output
    found: list[dict[str, Any]] = json.loads(shown.stdout)["strategies"]
    return found


def test_lists_every_strategy_under_its_slot() -> None:
    shown = run()
    assert shown.exit_code == 0
    assert shown.stderr == ""
    titles = [line for line in shown.stdout.splitlines() if line.startswith("--")]
    assert titles == [*(f"--{slot.replace('_', '-')}" for slot in SLOTS), "--recipe"]
    for cls in registry.listed():
        assert f"\n{cls.name} " in shown.stdout
    assert "ratio=0.2 (>= 0.0001, <= 1)" in shown.stdout
    assert "2511.00794" in shown.stdout


def test_json_holds_what_the_classes_declare() -> None:
    by_key = {(one["slot"], one["name"]): one for one in cards()}
    assert list(by_key) == [(cls.slot, cls.name) for cls in registry.listed()]
    schedule = by_key["selector", "ppl-schedule"]
    assert schedule["paper"] == "2511.00794"
    assert schedule["package"] == "prepo"
    assert schedule["parameters"][0] == {
        "name": "ratio",
        "type": "float",
        "default": 0.2,
        "bounds": ">= 0.0001, <= 1",
        "description": "kept prompts / candidate prompts (K / B)",
    }
    pacing = next(p for p in schedule["parameters"] if p["name"] == "pacing")
    assert (pacing["type"], pacing["default"]) == ("linear | quadratic | sqrt", "linear")
    clip = next(p for p in by_key["weighting", "rel-entropy"]["parameters"] if p["name"] == "max_weight")
    assert (clip["type"], clip["default"], clip["bounds"]) == ("float | null", None, "> 0, <= 1e+06")


@pytest.mark.parametrize("slot", [*SLOTS, "temperature-schedule"])
def test_one_slot_only(slot: str) -> None:
    assert {one["slot"] for one in cards("--slot", slot)} == {slot.replace("-", "_")}


def test_the_details_include_the_method() -> None:
    shown = run("rel-entropy")
    assert shown.exit_code == 0
    for piece in (
        "w_i = Hbar_i / Hbar",
        "max_weight",
        "upper bound on the weights",
        "--weighting 'rel-entropy:mean=token'",
    ):
        assert piece in shown.stdout
    assert cards("rel-entropy")[0]["class"] == "strategies.weightings.rel_entropy:RelEntropy"


def test_a_name_of_several_slots_shows_all() -> None:
    assert {one["slot"] for one in cards("uniform")} == {"budget", "weighting"}
    assert {one["slot"] for one in cards("uniform", "--slot", "budget")} == {"budget"}


@pytest.mark.parametrize("name", [cls.name for cls in registry.listed()])
def test_each_example_works(name: str) -> None:
    from tests.fakes import make_run

    for one in cards(name):
        built = registry.create(one["slot"], one["example"], make_run())
        assert built.name == name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ppl-shedule"], "unknown strategy 'ppl-shedule' (did you mean 'ppl-schedule'?"),
        (["rel-entropy", "--slot", "budget"], "unknown budget 'rel-entropy'"),
        (["--slot", "selektor"], "unknown slot 'selektor' (did you mean 'selector'?"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments: list[str], says: str) -> None:
    shown = run(*arguments, "--json")
    assert shown.exit_code == 2
    assert shown.stdout == ""
    assert says in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_recipes_are_listed_with_their_slots() -> None:
    found = {one["name"]: one for one in json.loads(run("--json").stdout)["recipes"]}
    shown = run().stdout
    assert list(found) == list(recipes())
    for name, one in found.items():
        assert one["slots"] == resolve(flags={"recipe": name}).strategies.model_dump()
        assert one["description"].endswith(".")
        assert one["paper"] is None or one["paper"] in one["description"]
        assert f"\n{name} " in shown[shown.index("--recipe") :]
    assert found["grpo"]["aliases"] == ["full"]
    assert found["dapo"]["paper"] == "2503.14476"


def test_a_recipe_is_explained_slot_by_slot() -> None:
    shown = run("prepo").stdout
    for piece in ("recipe prepo", "2511.00794", "prepo train --recipe prepo", "slides from low to high", "(default)"):
        assert piece in shown
    assert json.loads(run("prepo", "--json").stdout)["strategies"] == []
    assert "also:       full" in run("grpo").stdout
    both = json.loads(run("greso", "--json").stdout)
    assert [one["slot"] for one in both["strategies"]] == ["selector"]
    assert [one["slots"]["filter"] for one in both["recipes"]] == ["nonzero-variance"]
    assert run("prepo", "--slot", "selector").exit_code == 2


def test_a_recipe_of_ones_own_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# Mine (2501.01234):\n# short.\nstrategies: {budget: e3}\ntraining: {learning_rate: 2e-5}\n")
    (one,) = json.loads(run(str(path), "--json").stdout)["recipes"]
    assert (one["name"], one["description"], one["paper"]) == ("mine", "Mine (2501.01234): short.", "2501.01234")
    assert one["settings"] == {"training": {"learning_rate": 2e-5}}
    assert one["slots"]["budget"] == "e3"
    assert "also sets:  training.learning_rate=2e-05" in run(str(path)).stdout
    assert "no such recipe file" in run(str(tmp_path / "none.yaml")).stderr
