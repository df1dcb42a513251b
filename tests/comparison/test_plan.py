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
        ("radnom", r"unknown recipe 'radnom' \(did you mean 'random'"),
        ("prepo/wieghting=uniform", r"'wieghting=uniform' does not name a slot \(did you mean 'weighting'"),
        ("prepo/uniform", "'uniform' does not name a slot"),
        ("prepo/", "'' does not name a slot"),
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
    with pytest.raises(UsageError, match="random-seed0 contains other files"):
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


def started(folder: Path, recipe: str, *, finished: bool, checkpoint: bool, **limits: float) -> None:
    """A run in its study's folder."""
    flags = {"recipe": recipe, "output_dir": str(folder), **{f"training.{name}": n for name, n in limits.items()}}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(resolve(flags=flags)))
    if finished:
        (folder / "summary.json").write_text("{}")
    if checkpoint:
        (folder / "checkpoints" / "step-000005").mkdir(parents=True)
        (folder / "checkpoints" / "step-000005" / "state.json").touch()


@pytest.mark.parametrize("finished", [False, True])
def test_a_longer_study_extends_runs_that_do_not_depend_on_their_length(finished: bool, tmp_path: Path) -> None:
    started(tmp_path / "random-seed0", "random", finished=finished, checkpoint=True, total_steps=5)
    for steps, extends in ((5, False), (9, True)):
        (run,) = plan(parse_recipes("random"), [0], tmp_path, flags={"training.total_steps": steps})
        assert (run.extends, run.finished) == (extends, finished)


@pytest.mark.parametrize(
    ("recipe", "checkpoint", "now", "why"),
    [
        (
            "prepo",
            True,
            {"total_steps": 9},
            "with selector ppl-schedule an extended run differs from one of this length",
        ),
        ("random", True, {"total_steps": 4}, "training.total_steps=5, not 4, which can't be extended: it is longer"),
        ("random", True, {"total_steps": 9, "max_rollouts": 100}, "it is longer than that"),
        ("random", False, {"total_steps": 9}, "it has no checkpoint left"),
    ],
)
def test_runs_that_a_study_cannot_extend_are_refused_with_the_reason(
    recipe: str, checkpoint: bool, now: dict[str, int], why: str, tmp_path: Path
) -> None:
    started(tmp_path / f"{recipe}-seed0", recipe, finished=True, checkpoint=checkpoint, total_steps=5)
    with pytest.raises(UsageError, match=why):
        plan(parse_recipes(recipe), [0], tmp_path, flags={f"training.{name}": limit for name, limit in now.items()})


def test_a_run_without_a_checkpoint_that_is_unfinished_starts_again_with_the_new_length(tmp_path: Path) -> None:
    started(tmp_path / "prepo-seed0", "prepo", finished=False, checkpoint=False, total_steps=5)
    (run,) = plan(parse_recipes("prepo"), [0], tmp_path, flags={"training.total_steps": 9})
    assert not run.extends and not run.finished


def test_recipes_by_file_go_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my recipes" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("strategies: {selector: ppl-low}\n")
    choices = parse_recipes(f"random,{path},{path}/budget=e3/weighting=rel-entropy")
    runs = plan(choices, [0], tmp_path / "study")
    assert [run.folder.name for run in runs] == [
        "random-seed0", "mine-seed0", "mine-budget=e3-weighting=rel-entropy-seed0"]  # fmt: skip
    assert [run.config.recipe for run in runs] == ["random", "mine", "custom"]
    assert runs[2].config.strategies.selector == "ppl-low"
    assert [choice.label for choice in ablations(str(path))] == ["mine", "mine/selector=random"]
    with pytest.raises(UsageError, match="no such recipe file"):
        parse_recipes("random,none.yaml/budget=e3")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder, selector in (("a", "ppl-low"), ("b", "ppl-high")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(f"strategies: {{selector: {selector}}}\n")
    with pytest.raises(UsageError, match="two recipes are called mine; rename a file"):
        plan(parse_recipes(f"{tmp_path}/a/mine.yaml,{tmp_path}/b/mine.yaml"), [0], tmp_path / "study")


def test_both_names_of_a_recipe_continue_their_own_folders(tmp_path: Path) -> None:
    runs = plan(parse_recipes("full,grpo"), [0], tmp_path)
    assert [(run.recipe, run.folder.name, run.config.recipe) for run in runs] == [
        ("full", "full-seed0", "grpo"), ("grpo", "grpo-seed0", "grpo")]  # fmt: skip
    before = resolve(flags={"recipe": "grpo", "output_dir": str(runs[0].folder)}).model_copy(update={"recipe": "full"})
    runs[0].folder.mkdir()
    (runs[0].folder / "config.yaml").write_text(to_yaml(before))  # as it was written when this was its name
    plan(parse_recipes("full"), [0], tmp_path)
