"""What a start loads and when; the figures themselves are printed by benchmarks/startup.py."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup as benchmark
from prepo_cli.startup import large_imports

ROOT = Path(__file__).parents[2]
LATER = {"datasets", "deepspeed", "matplotlib", "pandas", "peft", "tensorboard", "wandb"}
"""Installed for the tests, and not what loading a model takes."""
STEP = ["training.prompts_per_step=4", "training.num_generations=4", "training.max_completion_length=32",
        "evaluation.dataset_name=null", "reporting.figures=false", "rewards.workers=1"]  # fmt: skip
SCRIPT = f"""
import json, sys
from prepo_cli.main import main

def loaded():
    return sorted({LATER!r} & set(sys.modules))

import prepo_cli.training.train
from prepo_cli.policy.loading import load_policy
from prepo_cli.sections import ModelConfig
load_policy(ModelConfig())
seen = [loaded()]
from prepo_cli.data.loading import load_prompts
load_prompts("embedded")
seen.append(loaded())
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([*seen, loaded()]), file=sys.stderr)
"""


def test_a_plain_run_imports_nothing_before_it_needs_it(tmp_path: Path) -> None:
    """With the benchmark's reward function, which sees the rollouts."""
    sets = [part for setting in STEP for part in ("--set", setting)]
    arguments = ["train", "--steps", "1", "--output-dir", str(tmp_path / "run"), *benchmark.WATCHED, *sets]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        env=os.environ | {benchmark.STAMP: str(tmp_path / "stamp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with_model, with_dataset, after_run = json.loads(done.stderr.splitlines()[-1])
    assert with_model == []
    assert with_dataset == ["datasets", "pandas"]  # the one imports the other
    assert after_run == ["datasets", "pandas"]
    stamped, used = json.loads((tmp_path / "stamp").read_text())
    assert used > 0
    assert stamped <= (tmp_path / "run" / "metrics.jsonl").stat().st_mtime


def test_installed_packages_are_compiled() -> None:
    assert benchmark.uncompiled() == 0, "every start compiles modules; set up with make install, which compiles them"


def test_the_benchmark_compares_medians_with_the_libraries() -> None:
    wall = {"libraries": [2.0, 3.0, 9.0], "first rollouts": [4.0, 4.5, 40.0], "one step": [9.0, 7.0, 7.5]}
    assert benchmark.added(wall) == {"first rollouts": 1.5, "one step": 4.5}


def test_large_imports_pause_collection_once() -> None:
    script = """
import gc
from prepo_cli.startup import large_imports
for expected in (False, True):
    with large_imports():
        assert gc.isenabled() is expected
        fresh = []
    assert gc.isenabled()
    assert any(o is fresh for o in gc.get_objects()) is expected, "frozen objects are not looked at"
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_collection_goes_on_after_an_import_that_fails() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), large_imports():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() <= before  # frozen objects may have been freed since


def test_a_line_is_shown_before_the_libraries_are_imported() -> None:
    script = """
import sys
from prepo_cli.startup import large_imports
with large_imports():
    assert not {"torch", "transformers", "datasets"} & set(sys.modules)
    import torch
with large_imports():  # nothing is left to wait for
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stderr == "prepo: loading torch and transformers\n" and done.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--steps", "1", "--output-dir", "new"],
        ["eval", "--limit", "2", "--output-dir", "new"],
        ["score-ppl", "embedded", "--output", "new.jsonl"],
        ["score-passrate", "embedded", "--output", "new.jsonl"],
        ["compare", "--recipes", "random", "--seeds", "0", "--steps", "1", "--output-dir", "new"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_loads_a_model_prints_its_first_line_before_it_imports_anything_large(
    command: list[str], tmp_path: Path
) -> None:
    script = f"""
import sys
from prepo_cli import terminal
def first(text):
    large = {{"torch", "transformers", "datasets", "scipy", "matplotlib"}} & set(sys.modules)
    print("too late:" if large else "in time", *sorted(large))
    raise SystemExit
terminal.say = first
from prepo_cli.main import main
main({command!r})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert done.stdout.splitlines()[:1] == ["in time"], done.stdout + done.stderr
