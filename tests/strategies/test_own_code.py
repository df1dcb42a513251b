from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies import own_code
from strategies.errors import StrategyError
from strategies.own_code import OwnCodeError, load, located, search
from strategies.registry import import_strategy


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty current folder, and afterwards the path and the modules as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_code, "_searched", [])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(file: str, text: str) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.resolve()


def test_by_module_and_by_file_it_is_the_same_object() -> None:
    write("mine_a.py", "class A: pass\n")
    assert load("mine_a:A") is load("mine_a.py:A") is load("./mine_a.py:A") is load(located("mine_a.py:A"))
    assert load("mine_a:A").__module__ == "mine_a"


def test_what_is_installed_comes_first_and_a_file_named_alike_is_still_reached() -> None:
    write("json.py", "dumps = 'mine'\n")
    assert callable(load("json:dumps"))
    assert load("json.py:dumps") == load("json.py:dumps") == "mine"
    assert sys.path[-1] == str(Path.cwd())


def test_files_of_one_name_in_two_folders_stay_apart() -> None:
    write("one/mine_b.py", "x = 1\n")
    write("two/mine_b.py", "x = 2\n")
    assert (load("one/mine_b.py:x"), load("two/mine_b.py:x"), load("one/mine_b.py:x")) == (1, 2, 1)


def test_a_file_imports_its_neighbors_and_may_have_any_name() -> None:
    write("deep/neighbor_c.py", "y = 3\n")
    write("deep/my-rewards.v2.py", "from neighbor_c import y\n")
    assert load("deep/my-rewards.v2.py:y") == 3


def test_a_folder_to_search_goes_before_the_current_one(tmp_path: Path) -> None:
    write("mine_d.py", "x = 'current'\n")
    write("../there/mine_d.py", "x = 'there'\n")
    search(tmp_path / "nowhere")
    search(tmp_path / "there")
    assert located("mine_d.py:x") == f"{tmp_path / 'there' / 'mine_d.py'}:x"
    assert load("mine_d.py:x") == load("mine_d:x") == "there"


def test_a_failed_import_leaves_nothing_behind() -> None:
    broken = write("json.py", "dumps = 1\nraise KeyError('later')\n")
    with pytest.raises(KeyError):
        load("json.py:dumps")
    broken.write_text("dumps = 'mended'\n", encoding="utf-8")
    assert load("json.py:dumps") == "mended"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("gone.py:x", "gone.py was not found in .*/here; run prepo from the folder that its path is relative to"),
        ("/gone/gone.py:x", "no such file: /gone/gone.py; correct its path"),
        ("gone.at_all:x", "module 'gone' was not found in .*/here or on PYTHONPATH"),
        ("json.gone:x", "module 'json.gone' was not found in"),
        ("json:gone", r"json \(.*json/__init__.py\) has no 'gone'$"),
    ],
)
def test_what_is_missing_is_said_with_the_cure(path: str, says: str) -> None:
    with pytest.raises(OwnCodeError, match=says):
        load(path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\nimport gone_too\n", "fails to import at mine_e.py:2: ModuleNotFoundError: No module named 'gone_too'"),
        ("import sys\n\nsys.exit(3)\n", "fails to import at mine_e.py:3: SystemExit: 3"),
        ("x = 1\n", "has no 'Mine'"),
        ("Mine = 1\n", "'mine_e:Mine' is not a strategy; derive it from one of Selector, BudgetAllocator"),
        ("from strategies import Strategy as Mine\n", "'mine_e:Mine' is not a strategy; derive it from one of"),
    ],
)
def test_a_strategy_that_does_not_import_is_named_with_its_line(source: str, says: str) -> None:
    write("mine_e.py", source)
    with pytest.raises(StrategyError) as error:
        import_strategy("mine_e:Mine")
    assert says in str(error.value) and "\n" not in str(error.value)
