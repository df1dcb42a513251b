"""The example plug-in, installed as its README says, works through the command line, checkpoint and listing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.metrics import metrics

ROOT = Path(__file__).parents[2]
SMALL = ["training.prompts_per_step=4", "training.num_generations=4", "training.max_completion_length=32",
         "training.save_steps=1", "evaluation.dataset_name=null"]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in installed in it."""
    root = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "examples" / "add_a_strategy", root / "source")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(root / "site"), str(root / "source")],
        check=True, capture_output=True,
    )  # fmt: skip
    return root / "site"


def prepo(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "prepo_cli", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_listed_with_its_package(site: Path) -> None:
    shown = prepo(site, "strategies", "short-answers", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "prepo-short-answers" in shown.stdout
    assert "0 gives all rollouts the same weight" in shown.stdout


def test_trains_saves_and_resumes(site: Path, tmp_path: Path) -> None:
    sets = [argument for setting in SMALL for argument in ("--set", setting)]
    run = ["train", "--weighting", "short-answers:power=0.3", "--steps", "2", "--output-dir", str(tmp_path / "run")]
    assert prepo(site, *run, *sets).returncode == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000002")
    resumed = prepo(site, "train", "--resume", "--output-dir", str(tmp_path / "run"))
    assert resumed.returncode == 0, resumed.stderr
    lines = metrics(tmp_path / "run")
    assert [line["weighting/steps_seen"] for line in lines] == [1, 2]


def test_by_dotted_path_and_wrong_parameters(site: Path, tmp_path: Path) -> None:
    bad = prepo(site, "train", "--weighting", "short_answers:ShortAnswers:power=9", "--output-dir", str(tmp_path / "x"))
    assert bad.returncode == 2
    assert "power=9: must be at most 2" in bad.stderr.splitlines()[-1]


def test_without_the_plug_in_its_name_is_unknown() -> None:
    done = prepo(Path("nowhere"), "train", "--weighting", "short-answers")
    assert done.returncode == 2
    assert "unknown weighting 'short-answers'" in done.stderr.splitlines()[-1]
