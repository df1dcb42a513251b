"""The papers' runs: every cell resolves, runs with a tiny model and is in the README; the table shows who measured."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from prepo_cli.config import resolve
from prepo_cli.sections import RunConfig
from tests.metrics import metrics

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "examples" / "paper"
SCRIPTS = ("run", "table", "published", "benchmarks", "tiny", "paper_rewards")
MODELS = (
    "qwen2.5-math-1.5b",
    "qwen2.5-math-7b",
    "qwen2.5-7b",
    "qwen3-4b",
    "llama-3.1-8b",
    "deepseek-r1-distill-qwen-1.5b",
    "deepseek-r1-distill-qwen-7b",
)
CELLS = [(m, r) for m in MODELS for r in (("grpo", "e3") if m.startswith("deepseek") else ("random", "greso", "prepo"))]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The scripts as they import each other; `paper.run`, `paper.table` and so on."""
    monkeypatch.syspath_prepend(str(PAPER))
    scripts = ModuleType("paper")
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)  # prepo's own benchmarks have the same name
        setattr(scripts, name, __import__(name))
    yield scripts
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def config_of(arguments: list[str]) -> RunConfig:
    """The configuration that `prepo train` resolves from --config, --recipe, --seed, --output-dir and --steps."""
    pairs = list(zip(arguments[1::2], arguments[2::2], strict=True))
    flags: dict[str, Any] = {
        "recipe": dict(pairs)["--recipe"],
        "training.total_steps": int(dict(pairs)["--steps"]) if "--steps" in dict(pairs) else None,
    }
    return resolve([Path(value) for key, value in pairs if key == "--config"], flags)


@pytest.mark.parametrize(("model", "method"), CELLS)
def test_every_cell_resolves_to_the_papers_settings(paper: Any, model: str, method: str) -> None:
    config = config_of(paper.run.arguments(model, method, 0, []))
    assert config.recipe == method
    assert config.model.model_name_or_path.split("/")[1].lower() == model
    assert config.training.num_generations == 8
    assert config.training.beta == 0
    assert config.training.scale_rewards == "group"
    assert config.evaluation.num_samples == 16
    assert config.model.dtype == "float32", "updates of 1e-6 vanish in bfloat16 weights"
    if model.startswith("deepseek"):
        assert config.training.prompts_per_step == 64
        assert config.training.max_completion_length == 6144
        assert (config.training.epsilon, config.training.epsilon_high) == (0.2, 0.2)
        assert config.training.learning_rate == (2e-6 if model.endswith("7b") else 5e-6)
    else:
        assert config.training.prompts_per_step == 256
        assert config.training.mini_batch_prompts == 64
        assert (config.training.epsilon, config.training.epsilon_high) == (0.2, 0.28)
        assert config.training.learning_rate == 1e-6
        random = next(c for c in paper.published.TABLE if (c.model, c.method) == (model, "random"))
        assert config.training.total_steps == random.steps


def test_the_math_models_have_room_for_prompt_and_answer(paper: Any) -> None:
    """Qwen2.5-Math's context is 4,096 tokens."""
    for model in ("qwen2.5-math-1.5b", "qwen2.5-math-7b"):
        config = config_of(paper.run.arguments(model, "prepo", 0, []))
        assert config.data.max_prompt_length + config.training.max_completion_length == 4096


def test_every_setting_names_its_source() -> None:
    files = [PAPER / "prepo-table.yaml", PAPER / "e3.yaml", *sorted((PAPER / "models").glob("*.yaml"))]
    assert {path.stem for path in files[2:]} == set(MODELS)
    for path in files:
        lines = path.read_text().splitlines()
        explained = False
        for line in lines:
            if line.startswith("  #"):
                explained = True
            elif line.startswith("  ") and "model_name_or_path" not in line:
                assert "  # " in line or explained, f"{path.name}: {line}"
            else:
                explained = False
        assert isinstance(yaml.safe_load("\n".join(lines)), dict)


def test_the_readme_has_a_line_for_every_cell(paper: Any) -> None:
    lines = (PAPER / "README.md").read_text().splitlines()
    steps = {(cell.model, cell.method): cell.steps for cell in paper.published.TABLE}
    assert set(MODELS) == set(paper.run.MODELS)
    for model, method in CELLS:
        assert method in paper.run.METHODS[paper.run.MODELS[model]]
        more = f" --steps {steps[model, method]}" if method == "prepo" else ""
        assert f"python examples/paper/run.py {model} {method}{more}" in lines


@pytest.mark.parametrize(
    ("model", "method"),
    [(model, "prepo") for model in MODELS] + [("qwen2.5-math-1.5b", m) for m in ("random", "greso", "grpo", "e3")],
)
def test_tiny_runs_through_all_stages(paper: Any, model: str, method: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        paper.run.main([model, method, "--tiny", "--tiny-dir", str(tmp_path), "--set", "reporting.figures=false"])
    assert ended.value.code in (None, 0)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["recipe"] == method
    assert summary["steps"] == 2
    steps = metrics(tmp_path / "run")
    assert all(step["updated"] and step["grad_norm"] > 0 for step in steps)
    kind = json.loads((tmp_path / f"tiny-{model}" / "config.json").read_text())["model_type"]
    assert kind == ("qwen3" if "qwen3" in model else "llama" if "llama" in model else "qwen2")
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_show_prints_the_command_with_its_files(paper: Any, capsys: pytest.CaptureFixture[str]) -> None:
    paper.run.main(["qwen3-4b", "prepo", "--seed", "3", "--show", "--steps", "170"])
    words = shlex.split(capsys.readouterr().out)
    assert words[1:3] == ["prepo", "train"]
    assert [Path(w).name for w in words if w.endswith(".yaml")] == ["prepo-table.yaml", "qwen3-4b.yaml"]
    assert words[-4:] == ["--output-dir", "runs/paper/qwen3-4b-prepo-seed3", "--steps", "170"]


def test_run_refuses_unknown_names(paper: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        paper.run.main(["qwen4", "prepo"])
    assert ended.value.code == 2
    assert "qwen2.5-math-1.5b" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        paper.run.main(["qwen3-4b", "preppo", "--tiny", "--tiny-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "did you mean 'prepo'" in capsys.readouterr().err


def test_a_box_is_rewarded_whatever_its_content(paper: Any) -> None:
    answers = [r"so \boxed{7}", "so 7", r"\boxed{}", r"\boxed{7"]
    assert paper.paper_rewards.has_box([""] * 4, answers) == [1, 0, 0, 0]


def test_published_means_are_those_of_their_cells_unless_marked(paper: Any) -> None:
    marked = {(cell.model, cell.method) for cell in paper.published.TABLE if cell.doubtful}
    assert marked == {("qwen2.5-math-7b", "greso"), ("qwen2.5-math-1.5b", "greso")}
    assert all(len(cell.cells) in (0, len(cell.columns)) for cell in paper.published.TABLE)


def finished(folder: Path, model: str, recipe: str, sources: dict[str, float] | None = None) -> Path:
    """A run folder with a summary, as prepo train leaves it."""
    folder.mkdir(parents=True)
    summary = {"model": model, "recipe": recipe, "cost": {"rollouts_total": 540_672}, "metric": "avg@16"}
    summary |= {"after": {"avg@16": {"value": 0.4, "low": 0.3, "high": 0.5}, "prompts": 90}}
    (folder / "summary.json").write_text(json.dumps(summary))
    by_source = {name: {"prompts": 30, "avg@16": {"value": value}} for name, value in (sources or {}).items()}
    lines = [{"step": 0, "by_source": {}}, {"step": 264, "by_source": by_source}]
    (folder / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_table_puts_runs_beside_the_papers_figures(
    paper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pooled = finished(tmp_path / "a", "/models/Qwen2.5-Math-7B", "prepo")
    by_source = finished(tmp_path / "b", "Qwen/Qwen2.5-Math-7B", "prepo", {"aime24": 0.2, "math500": 0.7})
    other = finished(tmp_path / "c", "me/other", "dapo")
    paper.table.main([str(pooled), str(by_source), str(other)])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert [row[2:6] for row in rows if row[:2] == ["qwen2.5-math-7b", "prepo"]] == [
        ["39.59", "540,000", "40.00 (avg@16, 90 prompts)", "540,672"],
        ["39.59", "540,000", "45.00 (avg@16, 2 benchmarks)", "540,672"],
    ]
    assert rows[-1][:4] == ["other", "dapo", "-", "-"]
    assert [row[2:] for row in rows if row[:2] == ["qwen2.5-math-7b", "greso"]] == [
        ["37.46 (!)", "654,000", "-", "-", "-"]
    ]
    assert "papers' own figures" in out
    assert len(rows) == 2 + len(paper.published.TABLE) + 2


def test_the_table_without_runs_has_only_the_papers_figures(paper: Any, capsys: pytest.CaptureFixture[str]) -> None:
    paper.table.main([])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(paper.published.TABLE)
    assert all(row.endswith("| - | - | - |") for row in rows[2:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such run folder"),
        (lambda folder: folder.mkdir(), "is not a finished run"),
        (lambda folder: (folder.mkdir(), (folder / "config.yaml").touch()), "--resume"),
        (
            lambda folder: (folder.mkdir(), (folder / "summary.json").write_text("{}")),
            "is not a summary of prepo train",
        ),
    ],
)
def test_the_table_says_what_is_wrong_with_a_folder(
    paper: Any, make: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        paper.table.main([str(tmp_path / "run")])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_benchmarks_are_joined_with_their_names(paper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.jsonl").write_text('{"id": 1, "problem": "1+1?", "answer": 2.0}\n')
    (tmp_path / "two.jsonl").write_text('{"question": "2+2?", "answer": "so #### 4"}\n')
    output = tmp_path / "all.jsonl"
    items = [f"one={tmp_path / 'one.jsonl'}", f"two={tmp_path / 'two.jsonl'}"]
    paper.benchmarks.main([*items, "--output", str(output)])
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["id"], row["source"], row["prompt"][0]["content"]) for row in rows] == [
        ("one-0", "one", "1+1?"),
        ("two-0", "two", "2+2?"),
    ]
    assert str(rows[1]["answer"]) == "4"
    with pytest.raises(SystemExit) as ended:
        paper.benchmarks.main(["aime24.jsonl", "--output", str(output)])
    assert ended.value.code == 2
    assert "NAME=DATASET" in capsys.readouterr().err
