"""One run, killed again and again, ends as if it had never been: byte for byte, but for times.

make chaos            # 30 kills, 10 of them while checkpoints and config.yaml are written
make chaos KILLS=6    # what CI does
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.metrics import timeless

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("PREPO_KILLS", "6"))
INSIDE = 3
"""The first of every three kills strikes while a checkpoint or the configuration is written."""
STEPS = 4 * KILLS
SETTINGS = [
    "--recipe", "everything", "--seed", "3", "--steps", str(STEPS), "--json",
    *[f"--set={setting}" for setting in (
        "training.prompts_per_step=6", "training.num_generations=4", "training.max_completion_length=48",
        "training.save_steps=1", "training.save_total_limit=3", "training.learning_rate=2e-4",
        "evaluation.limit=12", "evaluation.num_samples=2", "evaluation.eval_steps=3", "rewards.workers=1",
    )],
]  # fmt: skip
TIMED = ("seconds", "train_seconds")
OPERATIONS_OF_A_STEP = 60
"""About as many as a checkpoint takes: a strike hits the first or the second of a process."""


def start(folder: Path, strike: int | None, resume: bool, *more: str) -> subprocess.Popen[bytes]:
    places = ["checkpoints/", "config.yaml"]
    program = ["-m", "prepo_cli"] if strike is None else ["-m", "tests.chaos.striking", str(strike), *places, "--"]
    command = [sys.executable, *program, "train", *SETTINGS, *more, "--output-dir", str(folder)]
    command.append("--resume" if resume else "--overwrite")
    with (folder.parent / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log,
                                env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def kill_at_random(process: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> None:
    """Kill after up to two more steps and a random part of a second, or while the process still loads."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    wanted = rng.choice([0, 1, 1, 2])
    seen = 0
    while wanted > seen and process.poll() is None:
        time.sleep(0.02)
        size = metrics.stat().st_size if metrics.exists() else 0
        seen, before = seen + (size != before), size
    time.sleep(rng.uniform(0, 5.0 if not wanted else 0.6))
    process.kill()


def resumable(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("step-*"))


def content(folder: Path) -> dict[str, object]:
    """All that a run leaves, without times."""
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    files = [path for sub in ("final", "rollouts") for path in sorted((folder / sub).rglob("*")) if path.is_file()]
    return {
        "metrics": timeless(folder),
        "evaluations": [{key: value for key, value in line.items() if key not in TIMED} for line in evaluations],
        "after": summary["after"],
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in files},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert start(folder, None, resume=False).wait() == 0, (folder.parent / "log").read_text()
    return content(folder)


def test_a_run_killed_again_and_again_ends_as_if_it_never_was(uninterrupted: dict[str, object], tmp_path: Path) -> None:
    folder, rng = tmp_path / "run", random.Random(20260)
    killed = inside = attempts = 0
    while killed < KILLS:
        attempts += 1
        assert attempts < 3 * KILLS, "the run ended before it could be killed often enough"
        strike = rng.randint(1, 2 * OPERATIONS_OF_A_STEP) if killed % INSIDE == 0 else None
        process = start(folder, strike, resumable(folder))
        if strike is None:
            kill_at_random(process, folder, rng)
        code = process.wait()
        assert code in (-signal.SIGKILL, 0), (folder.parent / "log").read_text()
        killed += code != 0
        inside += code != 0 and strike is not None
        print(f"kill {killed}: {'inside writing' if strike else 'at random'}, exit {code}, "
              f"{len(list((folder / 'checkpoints').glob('step-*')))} checkpoints")  # fmt: skip
        if code == 0:
            break
    assert killed == KILLS, f"the run ended after {killed} kills"
    assert inside >= KILLS // INSIDE
    assert start(folder, None, resumable(folder)).wait() == 0, (folder.parent / "log").read_text()
    mended = content(folder)
    for name, value in uninterrupted.items():
        assert mended[name] == value, name
