"""What the adapter can't do is refused when the trainer is made, in one line with the cure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

import prepo_cli
from prepo_cli.errors import UsageError
from prepo_cli.integrations import saved
from prepo_cli.integrations.trl_checks import refuse_unsupported
from prepo_cli.integrations.trl_hooks import BELOW, HOOKS, OLDEST, check_attributes, check_hooks, check_version
from strategies import StrategyError, StrategySet
from strategies.types import RunInfo
from tests.trl.worlds import task, trainer

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a stream": (
        {"data": task(8).to_iterable_dataset()},
        "train_dataset is a IterableDataset, but strategies choose by row number: pass a datasets.Dataset",
    ),
    "no prompts": (
        {"data": task(8).rename_column("prompt", "question")},
        "train_dataset has no column 'prompt', only question, answer; rename one",
    ),
    "several objectives": (
        {"multi_objective_aggregation": "normalize_then_sum"},
        "multi_objective_aggregation='normalize_then_sum' has no single reward for strategies to see; set "
        "'sum_then_normalize'",
    ),
    "a temperature that stays": (
        {"generation_kwargs": {"temperature": 0.5}},
        "generation_kwargs sets a temperature, which no schedule could change; set args.temperature",
    ),
    "a verdict by nobody": (
        {"options": {"verdict": "math"}}, "verdict='math' is not among the reward functions: coin",
    ),
    "no such recipe": ({"strategies": "grop"}, "unknown recipe 'grop' (did you mean 'grpo'?)"),
    "other data": (
        {"strategies": StrategySet({}, RunInfo(10, 1, 2, 2))},
        "strategies= was made for 10 prompts, but the training set has 64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_at_construction(case: str, tmp_path: Path) -> None:
    changes, message = CASES[case]
    with pytest.raises(UsageError) as error:
        trainer(tmp_path, **{"strategies": "grpo"} | changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_strategies_are_refused_as_anywhere(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="unknown selector 'prep'"):
        trainer(tmp_path, {"selector": "prep"})
    with pytest.raises(StrategyError, match="needs a column 'pass_rate'"):
        trainer(tmp_path, "sgpo")


def test_images_and_unknown_loss_types_are_refused() -> None:
    args = SimpleNamespace(multi_objective_aggregation="sum_then_normalize", generation_kwargs=None)
    made = SimpleNamespace(args=args, train_dataset=Dataset.from_list([{"prompt": "a", "image": 1}]), loss_type="grpo")
    with pytest.raises(UsageError, match="column 'image': prepo supports text alone; remove it"):
        refuse_unsupported(made)
    made.train_dataset, made.loss_type = Dataset.from_list([{"prompt": "a"}]), "newest"
    with pytest.raises(UsageError, match="loss_type='newest' isn't known to take weights by token; set one of"):
        refuse_unsupported(made)


@pytest.mark.parametrize("version", ["1.15.9", "2.0.0", "0.25"])
def test_other_versions_of_trl_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=f"TRL from {OLDEST} to below {BELOW}, not with {version}: pip install"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.16.0", "1.16.3", "1.99"])
def test_versions_in_the_range_pass(version: str) -> None:
    check_version(version)


def test_the_extra_has_the_same_range() -> None:
    project = (Path(prepo_cli.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'trl = ["trl>={OLDEST},<{BELOW}"]' in project


def test_hooks_that_moved_are_refused() -> None:
    class Gone:
        pass

    class Moved:
        def _generate(self, prompts: Any, more: Any) -> None: ...
        def _calculate_rewards(self, prompts: Any, inputs: Any) -> None: ...

    with pytest.raises(UsageError, match=r"TRL 1\.17 has no _generate\(self, prompts\), which prepo hooks into"):
        check_hooks(Gone, {"_generate": HOOKS["_generate"]}, "1.17")
    check_hooks(Moved, {"_generate": HOOKS["_generate"]}, "1.17")  # a new parameter at the end does no harm
    with pytest.raises(UsageError, match="_calculate_rewards"):
        check_hooks(Moved, {"_calculate_rewards": HOOKS["_calculate_rewards"]}, "1.17")


def test_attributes_that_are_gone_are_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, "grpo")
    check_attributes(made)
    del made.reward_weights
    with pytest.raises(UsageError, match="has no reward_weights, which prepo reads; install a release"):
        check_attributes(made)


def test_a_checkpoint_of_plain_trl_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(UsageError, match="checkpoint-2 has no state of prepo's strategies"):
        trainer(tmp_path, "grpo", max_steps=4).train(resume_from_checkpoint=True)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    saved.save(tmp_path / "checkpoint-1", {"step": 3})
    assert saved.load(tmp_path / "checkpoint-1") == {"step": 3}
    state = tmp_path / "checkpoint-1" / saved.FOLDER / "state.json"
    state.write_text(state.read_text().replace("3", "4"))
    with pytest.raises(UsageError, match=r"is damaged: .*; resume from another checkpoint"):
        saved.load(tmp_path / "checkpoint-1")


def test_a_checkpoint_of_other_strategies_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, "grpo", max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(StrategyError, match="was written with selector 'full', this run has 'greso'"):
        trainer(tmp_path, "greso", max_steps=4).train(resume_from_checkpoint=True)
