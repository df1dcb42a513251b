"""What a study consists of."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.comparison.plan import RecipeChoice, ablations, parse_recipes, parse_seeds, plan
from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.recipes import recipes
from strategies.strategy_set import SLOT_DEFAULTS


def test_recipes_with_slots_replaced() -> None:
    assert parse_recipes("random,prepo/weighting=uniform/selector=mopps") == [
        RecipeChoice("random"),
        RecipeChoice("prepo", {"weighting": "uniform", "selector": "mopps"}),
    ]


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("prepo/selector=ppl-low:ratio=0.5, scope=prompt", {"selector": "ppl-low:ratio=0.5, scope=prompt"}),
        (
            "random/selector=my/oracle.py:Oracle:rollouts=4,refresh=8/budget=e3:low=2",
            {"selector": "my/oracle.py:Oracle:rollouts=4,refresh=8", "budget": "e3:low=2"},
        ),
    ],
)
def test_parameters_and_paths_hold_commas_and_slashes(text: str, slots: dict[str, str]) -> None:
    first, second = parse_recipes(f"{text},dapo")
    assert (first.slots, second) == (slots, RecipeChoice("dapo"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("radnom", "unknown recipe 'radnom', did you mean 'random'"),
        ("prepo/wieghting=uniform", "'wieghting=uniform' replaces no slot, did you mean 'weighting'"),
        ("prepo/uniform", "'uniform' replaces no slot"),
        ("prepo/", "'' replaces no slot"),
    ],
)
def test_a_wrong_recipe_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_recipes(text)


@pytest.mark.parametrize("text", ["", "a", "-1", "0..", "1.5", "2..1", "0..5000"])
def test_wrong_seeds_are_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("recipe", list(recipes()))
def test_an_ablation_puts_back_one_slot_at_a_time(recipe: str) -> None:
    whole, *parts = ablations(recipe)
    slots = resolve(flags={"recipe": recipe}).strategies.model_dump()
    changed = {slot for slot, spec in slots.items() if spec != SLOT_DEFAULTS[slot]}
    assert whole == RecipeChoice(recipe)
    assert {slot for part in parts for slot in part.slots} == changed
    for part in parts:
        (slot,) = part.slots
        flags = {"recipe": recipe, **{f"strategies.{slot}": spec for slot, spec in part.slots.items()}}
        resolved = resolve(flags=flags).strategies.model_dump()
        assert resolved[slot] == SLOT_DEFAULTS[slot]
        others = changed - {slot}
        if slot != "selector":  # a selector takes the companions with it that nobody set
            assert {other: resolved[other] for other in others} == {other: slots[other] for other in others}


def test_seed_by_seed_each_in_a_folder_of_its_own(tmp_path: Path) -> None:
    choices = parse_recipes("random,prepo/weighting=high-entropy-tokens:share=0.1")
    runs = plan(choices, [0, 2], tmp_path, flags={"training.max_rollouts": 64})
    assert [run.folder.name for run in runs] == [
        "random-seed0",
        "prepo-weighting=high-entropy-tokens-share=0.1-seed0",
        "random-seed2",
        "prepo-weighting=high-entropy-tokens-share=0.1-seed2",
    ]
    assert [run.config.seed for run in runs] == [0, 0, 2, 2]
    assert {run.config.training.max_rollouts for run in runs} == {64}
    assert not any(run.finished or run.resumable for run in runs)


def test_the_same_run_is_planned_once(tmp_path: Path) -> None:
    runs = plan(parse_recipes("prepo") + ablations("prepo"), [0], tmp_path)
    assert [run.recipe for run in runs] == ["prepo", "prepo/selector=random", "prepo/weighting=uniform"]


def test_foreign_folders_and_other_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = tmp_path / "random-seed0"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(UsageError, match="random-seed0 holds other files"):
        plan(parse_recipes("random"), [0], tmp_path)
    other = resolve(flags={"recipe": "random", "training.learning_rate": 0.5, "output_dir": str(folder)})
    (folder / "config.yaml").write_text(to_yaml(other))
    for finished in (False, True):
        if finished:
            (folder / "summary.json").write_text("{}")
        with pytest.raises(UsageError, match=r"different settings: training.learning_rate is 0.5, not 0.0001"):
            plan(parse_recipes("random"), [0], tmp_path)


def test_what_a_kill_left_half_written_is_no_foreign_folder(tmp_path: Path) -> None:
    checkpoints = tmp_path / "random-seed0" / "checkpoints"
    (checkpoints / "step-000004").mkdir(parents=True)  # without state.json: half deleted
    (run,) = plan(parse_recipes("random"), [1], tmp_path)
    run.folder.mkdir()
    (run.folder / ".partial-config.yaml").touch()
    (again,) = plan(parse_recipes("random"), [1], tmp_path)
    assert not again.finished and not again.resumable
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    (run.folder / "checkpoints").mkdir()
    checkpoints.joinpath("step-000004").rename(run.folder / "checkpoints" / "step-000004")
    assert not run.resumable
    (run.folder / "checkpoints" / "step-000004" / "state.json").touch()
    assert run.resumable
