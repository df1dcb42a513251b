"""docs/python.md: its examples are sound, and those that train nothing run."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import prepo_cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
LONG = ("train", "evaluate", "score_ppl")


def calls(example: str) -> dict[str, ast.Call]:
    found = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    return {node.func.id: node for node in found if isinstance(node.func, ast.Name)}


@pytest.mark.parametrize("example", EXAMPLES)
def test_functions_are_called_with_arguments_that_they_have(example: str) -> None:
    for name, call in calls(example).items():
        if name in prepo_cli.__all__:
            given: dict[str, Any] = {keyword.arg: ... for keyword in call.keywords if keyword.arg}
            inspect.signature(getattr(prepo_cli, name)).bind(*call.args, **given)


def test_examples_that_train_nothing_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    run = [example for example in EXAMPLES if not calls(example).keys() & set(LONG)]
    assert len(run) == 2
    for example in run:
        exec(compile(example, "docs/python.md", "exec"), {"__name__": "example"})
    assert "{'step': 512, 'avg@4': 0.5894" in capsys.readouterr().out


def test_every_export_is_in_the_table() -> None:
    table = PAGE.partition("## ")[0]
    assert all(re.search(rf"^\| `{name}\b", table, re.MULTILINE) for name in prepo_cli.__all__)
