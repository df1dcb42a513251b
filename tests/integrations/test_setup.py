"""Strategies for another trainer, from what its user gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prepo_cli.errors import UsageError
from prepo_cli.integrations.setup import strategy_set
from strategies import StrategyError, StrategySet
from strategies.types import RunInfo, StepContext

RUN = RunInfo(num_prompts=50, total_steps=10, prompts_per_step=4, num_generations=4)
CTX = StepContext(step=0, total_steps=10, epoch=0, round=0, seed=0)


def names(strategies: StrategySet) -> list[str]:
    return [part["name"] for part in strategies.state_dict().values()]


def test_a_recipe_by_name_slots_and_both() -> None:
    assert names(strategy_set("prepo", RUN)) == ["ppl-schedule", "uniform", "keep-all", "rel-entropy", "constant"]
    assert names(strategy_set({"selector": "e3"}, RUN))[1] == "e3"
    assert names(strategy_set({"recipe": "prepo", "weighting": "uniform"}, RUN))[3] == "uniform"
    assert names(strategy_set({"recipe": "dapo", "selector": "e3"}, RUN)) == [
        *("e3", "e3", "nonzero-variance", "uniform", "entropy-target"),
    ]


def test_a_recipe_of_ones_own_may_set_only_strategies(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("strategies: {selector: mopps}\n")
    assert strategy_set(str(own), RUN).selector.name == "mopps"
    own.write_text("strategies: {selector: mopps}\ntraining: {beta: 0.1}\n")
    with pytest.raises(UsageError, match="also sets training, which belongs to your trainer's own configuration"):
        strategy_set(str(own), RUN)


def test_without_a_schedule_the_trainers_temperature_holds() -> None:
    assert strategy_set("grpo", RUN, 0.7).temperature(CTX) == 0.7
    assert strategy_set({"temperature_schedule": "constant"}, RUN, 0.7).temperature(CTX) == 0.7
    assert strategy_set({"temperature_schedule": "constant:value=1.2"}, RUN, 0.7).temperature(CTX) == 1.2


def test_a_set_of_ones_own_must_be_for_the_data() -> None:
    own = StrategySet({}, RUN)
    assert strategy_set(own, RUN) is own
    with pytest.raises(UsageError, match="was made for 50 prompts, but the training set has 60"):
        strategy_set(own, RunInfo(60, 10, 4, 4))
    with pytest.raises(StrategyError, match="unknown slot 'filtre'"):
        strategy_set({"filtre": "keep-all"}, RUN)


def test_neither_prepo_nor_its_strategies_import_another_trainer() -> None:
    script = (
        "import sys, prepo_cli, strategies, prepo_cli.main, prepo_cli.training.train\n"
        "import prepo_cli.integrations.session, prepo_cli.integrations.setup, prepo_cli.integrations.saved\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'trl', 'verl', 'ray'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
