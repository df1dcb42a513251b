"""The house stands: imports go down only, nothing imports in a circle, and rooms stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    "strategies",
    "prepo_cli.errors",
    "prepo_cli.text",
    "prepo_cli.validation",
    "prepo_cli.yaml_text",
    "prepo_cli.machine",
    "prepo_cli.losses",
    "prepo_cli.statistics",
    "prepo_cli.seed_statistics",
    "prepo_cli.sections",
    "prepo_cli.models",
    "prepo_cli.recipes",
    "prepo_cli.config",
    "prepo_cli.reference",
    "prepo_cli.metrics",
    "prepo_cli.terminal",
    "prepo_cli.startup",
    "prepo_cli.signals",
    "prepo_cli.files",
    "prepo_cli.manifest",
    "prepo_cli.ownership",
    "prepo_cli.lock",
    "prepo_cli.chunks",
    "prepo_cli.rewards",
    "prepo_cli.data",
    "prepo_cli.policy",
    "prepo_cli.engines",
    "prepo_cli.distributed",
    "prepo_cli.evaluation",
    "prepo_cli.reporting",
    "prepo_cli.comparison",
    "prepo_cli.watch",
    "prepo_cli.training",
    "prepo_cli.integrations",
    "prepo_cli.api",
    "prepo_cli.commands",
    "prepo_cli.main",
    "prepo_cli.__main__",
]
"""From the ground up: a floor imports those before it. `prepo_cli` itself holds the version, and the names of `api`."""
LONGEST_FILE, LONGEST_MEDIAN, LONGEST_FUNCTION = 300, 120, 60


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(p): p for package in ("prepo_cli", "strategies") for p in (ROOT / package).rglob("*.py")}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Our modules that a file imports, anywhere but under `if TYPE_CHECKING`."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names if alias.name in FILES)
    elif isinstance(tree, ast.ImportFrom) and tree.module in FILES:
        for alias in tree.names:  # a module of that package, or a name within it
            inner = f"{tree.module}.{alias.name}"
            yield inner if inner in FILES else tree.module
    for child in ast.iter_child_nodes(tree):
        yield from imported(child)


GRAPH = {module: set(imported(tree)) - {module, "prepo_cli"} for module, tree in TREES.items()}


def floor_of(module: str) -> str:
    return next(floor for floor in FLOORS if module == floor or module.startswith(f"{floor}."))


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_in_a_circle() -> None:
    assert circle(GRAPH) == []


def test_no_folders_import_in_a_circle() -> None:
    folders: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        here = module.rpartition(".")[0] if FILES[module].name != "__init__.py" else module
        there = {o.rpartition(".")[0] if FILES[o].name != "__init__.py" else o for o in others}
        # The files that lie in prepo_cli itself are floors of their own, from the ground to the roof.
        if here != "prepo_cli":
            folders.setdefault(here, set()).update(there - {here, "prepo_cli"})
    assert circle(folders) == []


@pytest.mark.parametrize("module", [module for module in FILES if module != "prepo_cli"])
def test_imports_go_down(module: str) -> None:
    mine = FLOORS.index(floor_of(module))
    assert [other for other in sorted(GRAPH[module]) if FLOORS.index(floor_of(other)) > mine] == []


def test_the_test_sees_circles_and_imports_that_go_up() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert "prepo_cli.policy.policy" in GRAPH["prepo_cli.distributed.layout"]
    lazy = ast.parse("def f():\n    from prepo_cli.training import loop\n")
    assert list(imported(lazy)) == ["prepo_cli.training.loop"]


def test_files_and_functions_stay_small() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_FILE} == {}
    assert median(lengths.values()) <= LONGEST_MEDIAN
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        if not module.startswith(("prepo_cli.commands.", "prepo_cli.api."))  # which list every flag
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: length for name, length in functions.items() if length > LONGEST_FUNCTION} == {}
