"""What ends a run, and what a cost limit means for everything that follows the run's progress."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.config import resolve
from prepo_cli.errors import UsageError
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.costs import Costs
from prepo_cli.training.limits import Limits
from prepo_cli.training.progress import Progress
from prepo_cli.training.schedule import learning_rate
from prepo_cli.training.train import train
from strategies import registry
from strategies.types import RunInfo, StepContext, StepReport
from tests.metrics import metrics, timeless

SMALL = [
    "training.prompts_per_step=4",
    "training.num_generations=4",
    "training.max_completion_length=32",
    "training.save_steps=1",
    "training.save_total_limit=10",
    "evaluation.dataset_name=null",
    "reporting.figures=false",
]
REFILLING = ["strategies.filter=nonzero-variance", "training.max_rounds=3", "strategies.selector=ppl-schedule"]


def run(folder: Path, *sets: str, **options: Any) -> dict[str, Any]:
    return train(resolve(sets=[*SMALL, f"output_dir={folder}", *sets]), **options)


@given(
    st.integers(1, 50), st.integers(1, 5000), st.integers(0, 60), st.integers(0, 6000), st.integers(0, 900),
    st.integers(0, 900),
)  # fmt: skip
def test_the_closest_limit_counts(
    steps: int, rollouts: int, step: int, generated: int, tokens: int, scored: int
) -> None:
    costs = Costs(rollouts_total=generated, tokens_generated=tokens, tokens_scored=scored, seconds=3.0)
    progress = Progress(step, costs)
    limits = Limits(TrainingConfig(total_steps=steps, max_rollouts=rollouts, max_tokens=700, max_seconds=12.0))
    shares = [step / steps, generated / rollouts, (tokens + scored) / 700, 0.25]
    assert limits.share(progress) == limits.spent(progress) == max(shares)
    assert limits.reached(progress) == any(share >= 1 for share in shares)
    only_steps = Limits(TrainingConfig(total_steps=steps))
    assert only_steps.share(progress) == step / steps
    assert only_steps.spent(progress) is None


def test_a_cost_limit_replaces_the_default_number_of_steps() -> None:
    assert resolve().training.total_steps == 50
    assert resolve(flags={"training.max_rollouts": 640}).training.total_steps is None
    assert resolve(flags={"training.max_rollouts": 640, "training.total_steps": 9}).training.total_steps == 9
    with pytest.raises(UsageError, match="the run would never end; set training"):
        resolve(sets=["training.total_steps=null"])


@pytest.mark.parametrize("name", ["rollouts", "tokens", "seconds"])
def test_the_first_step_that_reaches_the_limit_is_the_last(tmp_path: Path, name: str) -> None:
    limit = {"rollouts": 100, "tokens": 2000, "seconds": 0.4}[name]
    summary = run(tmp_path, *REFILLING, f"training.max_{name}={limit}")
    lines = metrics(tmp_path)
    spent = {
        "rollouts": [line["cost/rollouts_total"] for line in lines],
        "tokens": [line["cost/tokens_generated"] + line["cost/tokens_scored"] for line in lines],
        "seconds": [line["cost/seconds"] for line in lines],
    }[name]
    assert spent[-1] >= limit
    assert all(cost < limit for cost in spent[:-1])
    assert summary["steps"] == len(lines)
    assert (tmp_path / "checkpoints" / f"step-{len(lines):06d}").is_dir()


def test_schedules_follow_the_share_that_is_spent(tmp_path: Path) -> None:
    """The window of perplexities starts at l = floor(rho (B - K)), with rho the share of the rollouts."""
    run(tmp_path, *REFILLING, "training.max_rollouts=300")
    lines = metrics(tmp_path)
    before = [0, *(line["cost/rollouts_total"] for line in lines)]
    assert len({after - b for b, after in itertools.pairwise(before)}) > 1  # unlike the share of the steps
    for b, line in zip(before, lines, strict=False):
        assert line["selector/window_start"] == int(b / 300 * (20 - 4))


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    sets = [*REFILLING, "training.max_rollouts=200", "strategies.temperature_schedule=entropy-target"]
    run(tmp_path / "whole", *sets, "training.lr_scheduler_type=cosine")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "final")
    (tmp_path / "killed" / "summary.json").unlink()
    for checkpoint in sorted((tmp_path / "killed" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    run(tmp_path / "killed", *sets, "training.lr_scheduler_type=cosine", resume=True)
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


def test_evaluations_by_rollouts_do_not_depend_on_how_many_a_step_takes(tmp_path: Path) -> None:
    sets = [*REFILLING, "evaluation.dataset_name=embedded", "evaluation.limit=2", "evaluation.num_samples=2"]
    run(tmp_path, *sets, "evaluation.eval_steps=null", "evaluation.eval_rollouts=60", "training.max_rollouts=300")
    rolled = [line["cost/rollouts_total"] for line in metrics(tmp_path)]
    evaluated = [json.loads(line)["rollouts_total"] for line in (tmp_path / "evaluations.jsonl").open()]
    crossed = [next(total for total in rolled if total >= limit) for limit in range(60, 300, 60)]
    assert evaluated == [0, *dict.fromkeys([*(total for total in crossed if total < rolled[-1]), rolled[-1]])]


@given(st.integers(0, 99))
def test_equal_steps_decay_alike_by_cost_and_by_steps(step: int) -> None:
    by_steps = TrainingConfig(learning_rate=1.0, lr_scheduler_type="cosine", total_steps=100)
    by_cost = TrainingConfig(learning_rate=1.0, lr_scheduler_type="cosine", total_steps=None, max_rollouts=3200)
    assert learning_rate(by_cost, step, spent=32 * step / 3200) == pytest.approx(learning_rate(by_steps, step))


def test_the_target_entropy_falls_alike_by_cost_and_by_steps() -> None:
    targets = []
    for by_cost in (False, True):
        info = RunInfo(10, 0 if by_cost else 100, 4, 4, vocab_size=652)
        schedule = registry.create("temperature_schedule", "entropy-target", info)
        for step in range(100):
            spent = (step + 1) / 100 if by_cost else None
            schedule.end_step(StepReport(step, info.total_steps, 0, 0, 1.0, 0.5, 0.5, True, 0, 0, spent))
        targets.append(schedule.metrics()["entropy_target"])
    assert targets[0] == pytest.approx(targets[1])
    assert targets[0] == pytest.approx(0.45)


def test_progress_is_the_share_spent_and_stays_below_one() -> None:
    assert StepContext(3, 0, 0, 0, 0, spent=0.25).progress == 0.25
    assert StepContext(3, 4, 0, 0, 0, spent=0.25).progress == 0.25
    assert StepContext(3, 4, 0, 0, 0).progress == 0.75
    assert StepContext(3, 0, 0, 0, 0, spent=1.5).progress < 1
