"""The table of metrics against what short runs write: nothing is missing in it, and nothing is in it for no reason."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve
from prepo_cli.files import read_lines
from prepo_cli.metrics import EVALUATIONS, STEPS, SUMMARY, Metric, of_strategies
from prepo_cli.training.train import train
from prepo_cli.training.update_stats import UpdateStats

RUNS: dict[str, list[str]] = {
    "everything": ["recipe=everything", "training.total_steps=1"],
    "prepo": ["recipe=prepo", "training.beta=0.01", "rewards.functions=[math, exact]"],
}
SHORT = [
    "training.total_steps=2", "training.prompts_per_step=4", "training.num_generations=4",
    "training.max_completion_length=24", "evaluation.limit=8", "evaluation.num_samples=2", "reporting.figures=false",
    "rewards.workers=1",
]  # fmt: skip
SETTINGS = {"evaluation_set", "recipe", "strategies", "model", "dataset", "seed", "output_dir"}
"""What summary.json repeats."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for name, sets in RUNS.items():
        train(resolve(sets=[*SHORT, *sets, f"output_dir={root / name}"]))
    return {name: root / name for name in RUNS}


def unlike(written: Iterable[str], metrics: Iterable[Metric]) -> tuple[set[str], set[str]]:
    """What is written and not in the table, and what is in the table and was not written."""
    names, patterns = set(written), [metric.name for metric in metrics]
    missing = {name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    return missing, {pattern for pattern in patterns if not fnmatch.filter(names, pattern)}


def keys(folders: Iterable[Path], file: str) -> set[str]:
    return {key for folder in folders for line in read_lines(folder / file) for key in line}


def test_the_table_names_what_steps_log(runs: Mapping[str, Path]) -> None:
    recipe_slots = [resolve(sets=sets).strategies.model_dump() for sets in RUNS.values()]
    used = {(slot, part) for slots in recipe_slots for slot, spec in slots.items() for part in spec.split("+")}
    strategies = [metric for key, found in of_strategies().items() if key in used for metric in found]
    assert len(strategies) > 15
    corrected = set(UpdateStats(tokens=1, ratio=1.0).metrics())  # by engines that aren't here
    assert unlike(keys(runs.values(), "metrics.jsonl") | corrected, [*STEPS, *strategies]) == (set(), set())


def test_what_has_no_condition_is_in_every_line(runs: Mapping[str, Path]) -> None:
    always = [metric for metric in STEPS if not metric.when]
    for folder in runs.values():
        for line in read_lines(folder / "metrics.jsonl"):
            assert unlike(line, always)[1] == set()


def test_the_table_names_what_evaluations_and_summaries_hold(runs: Mapping[str, Path]) -> None:
    assert unlike(keys(runs.values(), "evaluations.jsonl"), EVALUATIONS) == (set(), set())
    for folder in runs.values():
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        assert unlike(set(summary) - SETTINGS, SUMMARY) == (set(), set())
        assert {f"cost/{key}" for key in summary["cost"]} == {m.name for m in STEPS if m.name.startswith("cost/")}


def test_no_name_is_described_twice() -> None:
    for table in (STEPS, EVALUATIONS, SUMMARY):
        assert len({metric.name for metric in table}) == len(table)


def test_steps_count_the_training_of_the_policy_everywhere(runs: Mapping[str, Path]) -> None:
    folder = runs["prepo"]
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [0, 1]
    assert sorted(path.name for path in (folder / "rollouts").iterdir()) == [
        "step_000000.parquet",
        "step_000001.parquet",
    ]
    assert [line["step"] for line in read_lines(folder / "evaluations.jsonl")] == [0, 2]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
