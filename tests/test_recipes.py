"""Recipes by name, by another name and by file, and what a later recipe does to slots that were set before."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from strategies.strategy_set import SLOT_DEFAULTS

MINE = """
# Mine.
strategies:
  selector: ppl-low:ratio=0.5
  weighting: rel-entropy
training:
  learning_rate: 3e-5
"""
SLOTS = SLOT_DEFAULTS | {"selector": "ppl-low:ratio=0.5", "weighting": "rel-entropy"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def test_plain_grpo_has_two_names_and_shows_one() -> None:
    for name in ("grpo", "full"):
        config = resolve(flags={"recipe": name})
        assert (config.recipe, config.output_dir) == ("grpo", "runs/grpo-seed0")
        assert config.strategies.model_dump() == SLOT_DEFAULTS | {"selector": "full"}
    assert resolve(flags={"strategies.selector": "full"}).recipe == "grpo"


def test_a_recipe_of_ones_own(mine: Path) -> None:
    config = resolve(flags={"recipe": str(mine)})
    assert (config.recipe, config.output_dir) == ("mine", "runs/mine-seed0")
    assert config.strategies.model_dump() == SLOTS
    assert config.training.learning_rate == 3e-5
    changed = resolve(flags={"recipe": str(mine), "strategies.weighting": "uniform", "training.learning_rate": 1e-5})
    assert (changed.recipe, changed.strategies.selector) == ("custom", "ppl-low:ratio=0.5")
    assert changed.training.learning_rate == 1e-5


def test_its_name_outlives_its_file(mine: Path, tmp_path: Path) -> None:
    config = resolve(flags={"recipe": str(mine)})
    mine.unlink()
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert resolve([saved]) == config
    assert resolve([saved], {"strategies.selector": "greso"}).recipe == "custom"
    assert resolve([saved], {"recipe": "dapo"}).recipe == "dapo"


def test_a_file_may_hold_the_slots_of_a_known_recipe_or_its_name_with_others(tmp_path: Path) -> None:
    same, other = tmp_path / "same.yaml", tmp_path / "dapo.yaml"
    same.write_text("strategies: {selector: ppl-schedule, weighting: rel-entropy}\n")
    other.write_text(MINE)
    assert resolve(flags={"recipe": str(same)}).recipe == "same"
    assert resolve(flags={"recipe": str(other)}).recipe == "custom"


def test_a_later_recipe_replaces_slots_that_were_set_before_it(tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text("strategies: {selector: ppl-high, budget: e3}\ntraining: {total_steps: 7}\n")
    config = resolve([first], {"recipe": "dapo"})
    assert (config.recipe, config.strategies.budget, config.training.total_steps) == ("dapo", "uniform", 7)
    whole = tmp_path / "whole.yaml"
    whole.write_text(to_yaml(resolve(flags={"recipe": "prepo"})))
    assert resolve([whole], {"recipe": "dapo"}).recipe == "dapo"
    assert resolve([whole], {"strategies.weighting": "uniform"}).recipe == "ppl-schedule"
    assert resolve([first], {}, ["recipe=grpo", "strategies.budget=e3"]).strategies.selector == "full"
    assert resolve([], {"strategies.budget": "e3"}, ["recipe=grpo"]).strategies.budget == "e3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {total_steps: 3}\n", "is not a recipe: it sets no slot; write, for example, strategies: {"),
        ("strategies: {selektor: random}\n", "did you mean 'strategies.selector'"),
        ("strategies: {selector: rondom}\n", "did you mean 'random'"),
        ("recipe: dapo\nstrategies: {budget: e3}\n", "a recipe can't refer to another one"),
        ("- a\n", "is not a mapping"),
        ("strategies: [1\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=r".") as raised:
        resolve(flags={"recipe": str(path)})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no such recipe file: theirs\.yaml"):
        resolve(flags={"recipe": "theirs.yaml"})
    with pytest.raises(UsageError, match=r"unknown recipe 'mine'; for the file, write mine\.yaml; known: "):
        resolve(flags={"recipe": "mine"})
    with pytest.raises(UsageError, match="did you mean 'random'"):
        resolve(flags={"recipe": "rondom"})
