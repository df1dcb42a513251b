"""`prepo train` and `prepo compare` as a user calls them, on runs of a few seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from prepo_cli.main import app
from prepo_cli.sections import RunConfig

RUNNER = CliRunner()
SMALL = {
    "training": {
        "total_steps": 3,
        "prompts_per_step": 4,
        "num_generations": 4,
        "max_completion_length": 32,
        "save_steps": 1,
    },
    "evaluation": {"limit": 10, "num_samples": 2, "eval_steps": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs."""
    root = tmp_path_factory.mktemp("runs")
    (root / "small.yaml").write_text(yaml.safe_dump(SMALL))
    for recipe in ("prepo", "random"):
        result = train(root, "--recipe", recipe, "--output-dir", str(root / recipe), "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["recipe"] == recipe
    return root


def train(root: Path, *arguments: str):
    return RUNNER.invoke(app, ["train", "--config", str(root / "small.yaml"), *arguments])


def test_a_run_folder_holds_the_documented_files(runs: Path) -> None:
    names = {path.name for path in (runs / "prepo").iterdir()}
    assert names == {
        "config.yaml", "metrics.jsonl", "evaluations.jsonl", "rollouts", "checkpoints", "final", "summary.json",
        "README.md", "learning_curve.png", ".prepo.json",
    }  # fmt: skip
    assert (runs / "prepo" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert [line["step"] for line in lines(runs / "prepo" / "evaluations.jsonl")] == [0, 1, 2, 3]
    summary = json.loads((runs / "prepo" / "summary.json").read_text())
    assert summary["cost"]["rollouts_total"] == 3 * 16
    assert summary["cost"]["tokens_scored"] > 0
    assert summary["difference"]["low"] <= summary["difference"]["value"] <= summary["difference"]["high"]
    assert "avg@2" in (runs / "prepo" / "README.md").read_text()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_selector_and_weighting_of_prepo_are_recipe_prepo(runs: Path, tmp_path: Path) -> None:
    result = train(
        runs,
        "--selector",
        "ppl-schedule",
        "--weighting",
        "rel-entropy",
        "--output-dir",
        str(tmp_path / "run"),
        "--json",
    )
    assert json.loads(result.stdout)["recipe"] == "prepo"
    ours, theirs = (lines(folder / "metrics.jsonl") for folder in (tmp_path / "run", runs / "prepo"))
    assert [line["reward"] for line in ours] == [line["reward"] for line in theirs]


def test_without_json_a_table_is_printed(runs: Path, tmp_path: Path) -> None:
    result = train(runs, "--output-dir", str(tmp_path / "run"))
    assert "avg@2" in result.stdout
    assert "rollouts generated" in result.stdout


def test_compare_reads_runs(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = RUNNER.invoke(app, ["compare", str(runs / "prepo"), str(runs / "random"), "--output-dir", str(out)])
    assert result.exit_code == 0, result.output
    assert "compared with random\n" in result.stdout, "one seed has no cost ratio to explain"
    assert "scored" in result.stdout
    assert "One seed supports no claim" in result.stdout
    pictures = {path.stem for path in out.glob("*.png")}
    assert {"accuracy_rollouts", "zero_variance", "phases"} <= pictures
    assert {path.stem for path in out.glob("*.svg")} == pictures
    page = (out / "page.html").read_text()
    assert "strategies.selector" in page
    assert 'src="http' not in page


def test_an_evaluation_of_a_run_is_the_runs_own_and_compares_with_it(runs: Path, tmp_path: Path) -> None:
    evaluated = RUNNER.invoke(
        app, ["eval", "--model", str(runs / "prepo"), "--output-dir", str(tmp_path / "e"), "--json"]
    )
    assert evaluated.exit_code == 0, evaluated.output
    mine, after = json.loads(evaluated.stdout), json.loads((runs / "prepo/summary.json").read_text())["after"]
    assert {name: mine[name] for name in mine if "@" in name} == {name: after[name] for name in after if "@" in name}
    call = ["compare", str(runs / "prepo"), str(tmp_path / "e"), "--output-dir", str(tmp_path / "c"), "--json"]
    recipe = json.loads(RUNNER.invoke(app, call).stdout)["recipes"][1]
    assert (recipe["over_prompts"], recipe["not_compared"]) == (True, [])
    assert recipe["difference"]["value"] == 0 < recipe["difference"]["high"]


def test_compare_takes_another_baseline_and_target(runs: Path, tmp_path: Path) -> None:
    call = ["compare", str(runs / "prepo"), str(runs / "random"), "--output-dir", str(tmp_path), "--json"]
    found = json.loads(RUNNER.invoke(app, [*call, "--baseline", "prepo", "--target", "0.25"]).stdout)
    assert (found["baseline"], found["target"]) == ("prepo", 0.25)
    wrong = RUNNER.invoke(app, [*call, "--baseline", "radnom"])
    assert wrong.exit_code == 2
    assert "did you mean 'random'" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--dataset", "none.jsonl"], "no such dataset file: none.jsonl"),
        (["train", "--selector", "ppl-shedule"], "did you mean 'ppl-schedule'"),
        (["train", "--selector", "ppl-schedule:ratio=3"], "ratio=3: must be at most 1"),
        (["train", "--selector", "ppl-schedule:ration=0.3"], "did you mean 'ratio'"),
        (["train", "--recipe", "preppo"], "did you mean 'prepo'"),
        (["train", "--set", "training.learning_rat=1"], "did you mean 'training.learning_rate'"),
        (["train", "--steps", "0"], "training.total_steps=0"),
        (["train", "--resume", "--output-dir", "nothing-here"], "nothing to resume"),
        (["train", "--output-dir", "/proc/no/run"], "can't write to /proc/no/run"),
        (["train", "--reward", "mth"], "unknown reward 'mth' (did you mean 'math'?); known: math, "),
        (["train", "--verdict", "exact"], "rewards.verdict=exact is not one of the reward functions: math; choose one"),
        (["train", "--model", "./no-model"], "no such model folder"),
        (["compare"], "nothing to compare; pass run folders"),
        (["compare", "nothing-here"], "no such run folder: nothing-here"),
        (
            ["compare", "/usr"],
            "/usr is neither a run nor an evaluation; pass the --output-dir of a finished prepo train",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    last = [line for line in result.stderr.splitlines() if line][-1]
    assert message in last
    assert last.startswith("prepo: ")
    assert "Traceback" not in result.output


def test_verdict_is_the_function_that_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configs: list[RunConfig] = []
    monkeypatch.setattr("prepo_cli.training.train.train", lambda config, **_: configs.append(config))
    for verdict in ([], ["--verdict", "boxed"]):
        result = RUNNER.invoke(app, ["train", "--reward", "math", "--reward", "boxed", *verdict])
        assert result.exit_code == 0, result.output
    assert [config.rewards.verdict_function for config in configs] == ["math", "boxed"]


def test_another_run_in_the_folder_is_refused_and_kept(runs: Path) -> None:
    before = (runs / "prepo" / "metrics.jsonl").read_bytes()
    result = train(runs, "--seed", "3", "--output-dir", str(runs / "prepo"))
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    result = train(runs, "--seed", "3", "--output-dir", str(runs / "prepo"), "--resume")
    assert result.exit_code == 2
    assert "started with seed=0, not 3" in result.stderr
    assert (runs / "prepo" / "metrics.jsonl").read_bytes() == before
