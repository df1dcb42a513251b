"""Imports run one way: prepo_cli -> strategies -> {standard library, numpy, pydantic}."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRATEGIES_MAY = sys.stdlib_module_names | {"numpy", "pydantic", "strategies"}
PARSING_MAY = sys.stdlib_module_names | {"typer", "prepo_cli"}
ON_EVERY_START = [
    ROOT / "prepo_cli" / "__init__.py",
    ROOT / "prepo_cli" / "__main__.py",
    ROOT / "prepo_cli" / "main.py",
    ROOT / "prepo_cli" / "errors.py",
    ROOT / "prepo_cli" / "startup.py",
    ROOT / "prepo_cli" / "commands" / "__init__.py",
    *(
        ROOT / "prepo_cli" / "commands" / f"{n}.py"
        for n in ("train", "score_ppl", "score_passrate", "eval", "compare", "show", "watch", "config", "strategies")
    ),
]


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names that import statements among `nodes` bring in."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            names.add((node.module or "").partition(".")[0])
    return names


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_strategies_need_nothing_of_the_trainer(path: Path) -> None:
    assert imported(ast.walk(parsed(path))) <= STRATEGIES_MAY


@pytest.mark.parametrize("path", sorted((ROOT / "prepo_cli").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_click_is_never_imported(path: Path) -> None:
    assert "click" not in imported(ast.walk(parsed(path)))


@pytest.mark.parametrize("path", ON_EVERY_START, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_parsing_needs_is_light(path: Path) -> None:
    assert imported(run_at_import(parsed(path))) <= PARSING_MAY


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys; old = set(sys.modules); import prepo_cli; dir(prepo_cli); print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"prepo_cli"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["strategies", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import json, sys\n"
        "import typer\n"
        "before = set(sys.modules)\n"
        "from prepo_cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: prepo")
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "prepo_cli" in loaded
    # Typer itself loads pydantic, where it is installed, for a command's parameters.
    assert not loaded & {"torch", "transformers", "numpy", "yaml", "datasets", "matplotlib", "strategies"}
