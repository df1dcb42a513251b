"""A stranger's own strategies and rewards, through the installed `prepo`, in folders that are on nobody's path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prepo_cli.main import _explain
from tests.metrics import metrics

ROOT = Path(__file__).parents[2]
PREPO = Path(sysconfig.get_path("scripts")) / "prepo"
SELECTOR = '''
from beside import FACTOR
from strategies import Selector, register


@register("in-file-order")
class InFileOrder(Selector):
    """The candidates that come first in the dataset."""

    def select(self, n, source, ctx):
        return sorted(source.take(FACTOR * n), key=lambda prompt: prompt.index)[:n]
'''
REWARD = """
def short(completions, **kwargs):
    return [1.0 if len(completion) < 400 else 0.0 for completion in completions]
"""
SMALL = ["training.prompts_per_step=2", "training.num_generations=2", "training.max_completion_length=8",
         "training.save_steps=1", "evaluation.dataset_name=null", "reporting.figures=false"]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a selector, the module that it imports, and a reward in a folder of its own."""
    home = tmp_path_factory.mktemp("stranger")
    (home / "my_selectors.py").write_text(SELECTOR, encoding="utf-8")
    (home / "beside.py").write_text("FACTOR = 5\n", encoding="utf-8")
    (home / "rewards").mkdir()
    (home / "rewards" / "my_reward.py").write_text(REWARD, encoding="utf-8")
    return home


def prepo(folder: Path, *arguments: str, path: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the console script; PYTHONPATH leads to this checkout and nowhere else."""
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)])), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([PREPO, *arguments], cwd=folder, env=os.environ | ours, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("spec", ["my_selectors:InFileOrder", "my_selectors.py:InFileOrder"])
def test_a_strategy_in_the_current_folder_is_described(home: Path, spec: str) -> None:
    code, out, err = prepo(home, "strategies", spec, "--json")
    assert (code, err) == (0, "")
    [card] = json.loads(out)["strategies"]
    assert (card["slot"], card["name"], card["example"]) == ("selector", "in-file-order", spec)


def test_a_run_with_own_code_resumes_from_elsewhere(home: Path, tmp_path: Path) -> None:
    own = ["--selector", "my_selectors.py:InFileOrder", "--reward", "rewards/my_reward.py:short"]
    sets = [part for setting in SMALL for part in ("--set", setting)]
    code, _, err = prepo(home, "train", *own, "--steps", "2", "--output-dir", "runs/own", *sets)
    assert code == 0, err
    run = home / "runs" / "own"
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (saved["code_dir"], saved["strategies"]["selector"]) == ("../..", "my_selectors.py:InFileOrder")
    shutil.rmtree(run / "checkpoints" / "step-000002")
    moved = shutil.copytree(home, tmp_path / "moved") / "runs" / "own"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code, _, err = prepo(elsewhere, "train", "--resume", "--output-dir", str(moved))
    assert code == 0, err
    assert [line["rewards/rewards/my_reward.py:short/mean"] for line in metrics(moved)] == [1.0, 1.0]
    (moved.parents[1] / "my_selectors.py").unlink()
    code, _, err = prepo(elsewhere, "train", "--resume", "--output-dir", str(moved))
    assert (code, err.count("\n")) == (2, 1)
    assert (
        "my_selectors.py was not found in " in err and "run prepo from the folder that its path is relative to" in err
    )


def test_no_file_of_the_users_hides_a_package(tmp_path: Path) -> None:
    (tmp_path / "types.py").write_text("raise RuntimeError('the wrong types')\n", encoding="utf-8")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('the wrong numpy')\n", encoding="utf-8")
    (tmp_path / "beside.py").write_text("FACTOR = 5\n", encoding="utf-8")
    (tmp_path / "strategies.py").write_text(SELECTOR, encoding="utf-8")
    code, out, err = prepo(tmp_path, "strategies", "strategies.py:InFileOrder", "--json")
    assert (code, json.loads(out)["strategies"][0]["name"]) == (0, "in-file-order"), err
    code, _, err = prepo(tmp_path, "strategies", "strategies:InFileOrder")
    assert code == 2 and "for the file of that name, write strategies.py:InFileOrder" in err


@pytest.mark.parametrize("name", ["strategies.py", "strategies/__init__.py"])
def test_a_foreign_package_of_our_name_is_named(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise SystemExit('not to be run')\n", encoding="utf-8")
    code, out, err = prepo(tmp_path, "strategies", path=str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{foreign} shadows prepo's package 'strategies'; rename or uninstall it" in err


def test_an_exception_of_a_strategy_is_shown_with_its_line(tmp_path: Path) -> None:
    code = compile("def select():\n    return {}['gold']\n", str(tmp_path / "mine.py"), "exec")
    names: dict[str, Callable[[], None]] = {}
    exec(code, names)
    with pytest.raises(KeyError) as error:
        names["select"]()
    assert _explain(error.value) == (f"KeyError at {tmp_path}/mine.py:2: 'gold' (--debug shows the traceback)", 1)
    assert _explain(KeyError("gold")) == ("KeyError: 'gold' (--debug shows the traceback)", 1)
