"""`--profile`: a trace that has the phases of the recorded steps, and a table of what cost most."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from prepo_cli.config import resolve
from prepo_cli.errors import RunError
from prepo_cli.training import profiling
from prepo_cli.training.stopwatch import PHASES, Stopwatch
from prepo_cli.training.train import train

SMALL = [
    "training.prompts_per_step=2", "training.num_generations=2", "training.max_completion_length=8",
    "training.save_steps=100", "evaluation.at_start=false", "evaluation.at_end=false",
]  # fmt: skip


def recorded(folder: Path) -> Counter[str]:
    """How often each phase was recorded."""
    with gzip.open(folder / profiling.TRACE) as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return Counter(name.removeprefix("step: ") for name in names if name.startswith("step: "))


@pytest.mark.parametrize(("steps", "found"), [(4, 3), (1, 1)])
def test_the_first_step_is_left_out_unless_it_is_the_only_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, found: int
) -> None:
    sets = [*SMALL, f"training.total_steps={steps}", f"output_dir={tmp_path / 'run'}"]
    train(resolve(sets=sets), profile=True)
    phases = recorded(tmp_path / "run")
    assert phases.keys() == set(PHASES)
    assert phases["update"] == phases["generate"] == phases["reward"] == found
    told = capsys.readouterr().err
    assert told.count("wrote a profile to ") == 1
    table = told.partition("share\n")[2].splitlines()[1 : 1 + profiling.SHOWN]
    shares = [float(row.split()[-1].removesuffix("%")) for row in table]
    assert len(shares) == profiling.SHOWN and shares == sorted(shares, reverse=True) and sum(shares) <= 100.5


def test_without_it_nothing_is_recorded(tmp_path: Path) -> None:
    train(resolve(sets=[*SMALL, "training.total_steps=2", f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / profiling.TRACE).exists()


def test_a_full_disk_costs_the_trace_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise RunError(f"can't write {path} (No space left on device)")

    monkeypatch.setattr(profiling, "atomic_path", full)
    with profiling.profiled(tmp_path, 1) as after_step:
        after_step()
    assert "No space left" in capsys.readouterr().err


def test_phases_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 3.5, 4.0, 6.0, 9.0])
    monkeypatch.setattr("prepo_cli.training.stopwatch.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for name in ("select", "generate", "select"):
        with watch.phase(name):
            pass
    assert watch.seconds == {**dict.fromkeys(PHASES, 0.0), "select": 4.0, "generate": 0.5}
    assert watch.total == 9.0
