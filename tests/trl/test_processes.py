"""Two processes, over gloo, that train one job after the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.errors import RunError
from prepo_cli.integrations.trl_batch import _local
from prepo_cli.integrations.trl_checks import Verdict
from prepo_cli.integrations.trl_roll import Roller
from strategies import Prompt, StepContext
from tests.trl.launching import OUTPUT, alone, found, rows, same_state, same_weights, together
from tests.trl.script import Job

SMALL: dict[str, Any] = {"per_device_train_batch_size": 4}
CHOOSING: dict[str, Any] = {
    "everything": "everything",
    "dapo": "dapo",
    "prepo": "prepo",
    "calibrated": "calibrated",
    "tokens": {"selector": "full", "filter": "nonzero-variance", "weighting": "high-entropy-tokens"},
    "top-ups": {"selector": "mopps", "budget": "pilot-commit"},
}
ODD: dict[str, Any] = {"num_generations": 3, "per_device_train_batch_size": 3}
"""Groups of 3, so that a round of one group does not divide among two processes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them have trained, each in a folder of its own."""
    base = tmp_path_factory.mktemp("processes")
    jobs = [
        Job(str(base / "plain"), None, steps=10, settings=SMALL),
        Job(str(base / "neutral"), "neutral", steps=10, settings=SMALL),
        Job(str(base / "odd"), "dapo", steps=4, settings=ODD),
        *(
            Job(str(base / name), given, steps=4, settings=SMALL | {"loss_type": "grpo"})
            for name, given in CHOOSING.items()
        ),
    ]
    assert together(base, jobs) == 0, (base / OUTPUT).read_text()[-4000:]
    return base


def test_neutral_strategies_are_plain_trl(folder: Path) -> None:
    plain, neutral = found(folder / "plain"), found(folder / "neutral")
    figures = [[line[:7] for line in end["figures"]] for end in (plain, neutral)]
    assert figures[0] == figures[1] and len(figures[0]) == 10
    assert same_weights(plain, neutral)
    assert not same_weights(plain, found(folder / "prepo"))


@pytest.mark.parametrize("name", CHOOSING)
def test_processes_choose_the_same_and_end_with_the_same_weights(name: str, folder: Path) -> None:
    assert rows(folder / name, 0) == rows(folder / name, 1)
    one, other = found(folder / name, 0), found(folder / name, 1)
    assert same_weights(one, other)
    assert same_state(one["state"], other["state"])


def test_rollouts_that_only_fill_up_the_processes_are_charged(folder: Path) -> None:
    counts = [sum(call[3]) for call in rows(folder / "odd")]
    assert any(count % 2 for count in counts)
    costs = found(folder / "odd")["state"]["costs"]
    assert costs["rollouts_total"] == sum(count + count % 2 for count in counts)
    assert costs["rollouts_trained"] == 4 * 4 * 3
    assert same_weights(found(folder / "odd", 0), found(folder / "odd", 1))


def test_perplexities_are_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    """As the first choice shows, which they make alone, before any rollouts and updates."""
    assert alone(tmp_path, "prepo", steps=1, settings={"loss_type": "grpo"}) == 0
    assert rows(tmp_path)[0] == rows(folder / "prepo")[0]


def test_each_process_gets_the_weights_of_its_own_rows() -> None:
    weights_NT, places = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([3, 0, 2])
    parts = [_local(weights_NT, places, SimpleNamespace(num_processes=2, process_index=p), 6) for p in (0, 1)]
    assert np.concatenate(parts).tolist() == [[3, 4], [1, 1], [5, 6], [1, 2], [1, 1], [1, 1]]


def test_processes_that_choose_differently_are_stopped() -> None:
    """Rather than to wait for each other forever."""
    other = torch.tensor([123])
    accelerator = SimpleNamespace(num_processes=2, device="cpu", gather=lambda mine: torch.cat([mine, other]))
    roller = Roller(SimpleNamespace(accelerator=accelerator), lambda rows: {}, Verdict(0, 1.0), lambda *costs: None)
    ctx = StepContext(step=4, total_steps=9, epoch=0, round=1, seed=0)
    with pytest.raises(
        RunError, match="step 4, round 1: the strategies of 2 processes chose differently; a strategy must"
    ):
        roller([Prompt(3, "p")], [4], ctx)
