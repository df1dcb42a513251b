"""What measured the stored pass rates: compared with the run at its start, and charged to it if asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import concatenate_datasets
from typer.testing import CliRunner

from prepo_cli.config import ASSETS, resolve
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.score_context import PassRateContext
from prepo_cli.main import app
from prepo_cli.policy.loading import load_policy
from prepo_cli.sections import ModelConfig
from prepo_cli.training.costs import Costs
from prepo_cli.training.stored_pass_rates import account_for_pass_rates, check_pass_rates, measured_with
from prepo_cli.training.train import train
from tests.metrics import timeless

RUNNER = CliRunner()
SYSTEM = "Answer in a box."


def make_dataset(path: Path, recorded: bool = True) -> Path:
    """Twelve prompts of the embedded task, the last without a pass rate unless that is all there is."""
    lines = (ASSETS / "task" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    rows = [json.loads(line) | {"pass_rate": i % 5 / 4} for i, line in enumerate(lines)]
    if recorded:
        rows = [row | {"pass_k": 4, "pass_length": 2.5 + i} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> PromptDataset:
    return load_prompts(str(make_dataset(tmp_path / "d.jsonl")))


def test_prompts_have_their_pass_rate(dataset: PromptDataset) -> None:
    assert [dataset.prompt(row).pass_rate for row in range(6)] == [0, 0.25, 0.5, 0.75, 1, 0]
    assert "pass_rate" in dataset.columns


def test_rollouts_are_said_and_charged_on_request(dataset: PromptDataset, capsys: pytest.CaptureFixture[str]) -> None:
    expected = sum(4 * (2.5 + i) for i in range(12))
    assert measured_with(dataset) == (48, expected)
    costs = Costs()
    account_for_pass_rates(dataset, costs, charge=False)
    assert "took 48 rollouts, 4 per prompt: not charged to this run" in capsys.readouterr().err
    assert costs == Costs()
    account_for_pass_rates(dataset, costs, charge=True)
    assert "48 rollouts, 4 per prompt: charged to this run" in capsys.readouterr().err
    assert (costs.rollouts_total, costs.tokens_generated, costs.rollouts_trained) == (48, expected, 0)


def test_rows_without_a_pass_rate_cost_nothing(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "d.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[3] |= {"pass_k": 0, "pass_length": None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert measured_with(load_prompts(str(path))) == (44, sum(4 * (2.5 + i) for i in range(12) if i != 3))


def test_pass_rates_without_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_prompts(str(make_dataset(tmp_path / "d.jsonl", recorded=False)))
    account_for_pass_rates(dataset, Costs(), charge=False)
    assert "are not charged to this run" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"needs the columns pass_k and pass_length, which .* lacks"):
        account_for_pass_rates(dataset, Costs(), charge=True)


def test_a_run_starts_from_what_it_is_charged(
    dataset: PromptDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["training.total_steps=2", "training.prompts_per_step=4", "training.num_generations=4",
            "training.max_completion_length=16", "evaluation.dataset_name=null", "reporting.figures=false",
            f"data.dataset_name={dataset.name}"]  # fmt: skip
    totals = {}
    for charge in ("false", "true"):
        folder = tmp_path / charge
        train(
            resolve(flags={"recipe": "sgpo"}, sets=[*sets, f"data.charge_pass_rates={charge}", f"output_dir={folder}"])
        )
        totals[charge] = [line["cost/rollouts_total"] for line in timeless(folder)]
    assert totals == {"false": [16, 32], "true": [64, 80]}
    said = capsys.readouterr().err
    assert said.count("took 48 rollouts") == said.count(f"rates of {dataset.name} have no record of the model") == 2
    train(resolve(flags={"recipe": "random"}, sets=[*sets, f"output_dir={tmp_path / 'random'}"]))
    assert "pass rates" not in capsys.readouterr().err


def test_a_limit_that_is_reached_before_training_is_refused(dataset: PromptDataset, tmp_path: Path) -> None:
    flags = {"recipe": "sgpo", "data.dataset_name": dataset.name, "data.charge_pass_rates": True}
    flags |= {"training.max_rollouts": 48, "training.prompts_per_step": 4, "output_dir": str(tmp_path / "run")}
    flags |= {"evaluation.holdout": 0}
    with pytest.raises(UsageError, match="already used up the run's cost limit"):
        train(resolve(flags=flags))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> PromptDataset:
    """Ten prompts with the pass rates of the embedded model, measured with a system prompt."""
    out = tmp_path_factory.mktemp("scored") / "scored.parquet"
    arguments = ["--k", "2", "--limit", "10", "--temperature", "0.7", "--system-prompt", SYSTEM, "--output", str(out)]
    result = RUNNER.invoke(app, ["score-passrate", "embedded", *arguments])
    assert result.exit_code == 0, result.output
    return load_prompts(str(out))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(load_policy(ModelConfig()).tokenizer, SYSTEM)


def test_the_context_says_how_the_pass_rates_were_measured(scored: PromptDataset, renderer: Renderer) -> None:
    (cell,) = scored.table.unique("pass_context")
    context = PassRateContext.from_json(cell)
    expected = {"temperature": 0.7, "top_p": 1.0, "max_completion_length": 96, "verdict": "math"}
    assert context == PassRateContext.of(ModelConfig(), renderer, **expected)
    assert PassRateContext.from_json(json.dumps({"model": "embedded"})) is None


def test_a_run_that_measures_alike_is_not_warned(
    scored: PromptDataset, renderer: Renderer, capsys: pytest.CaptureFixture[str]
) -> None:
    check_pass_rates(scored, resolve(), renderer)
    assert capsys.readouterr().err == ""


def test_differences_are_said_in_one_line(
    scored: PromptDataset, renderer: Renderer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolve(flags={"model.model_name_or_path": "a/b", "rewards.functions": ["exact"]})
    check_pass_rates(scored, config, Renderer(renderer.tokenizer, "Be brief."))
    err = capsys.readouterr().err
    assert err.startswith(
        f"prepo: warning: the stored pass rates of {scored.name} were computed with model 'embedded' (files "
    )
    for fault in (
        "not 'a/b' and were computed with another chat template",
        "and used the verdict of 'math', not 'exact'",
    ):
        assert fault in err
    assert err.endswith("(prepo score-passrate)\n") and err.count("\n") == 1


def test_rows_without_a_context_are_said(
    scored: PromptDataset, dataset: PromptDataset, renderer: Renderer, capsys: pytest.CaptureFixture[str]
) -> None:
    check_pass_rates(dataset, resolve(), renderer)
    assert (
        "have no record of the model, prompt rendering and verdict they were computed with;" in capsys.readouterr().err
    )
    names = ["prompt", "answer", "pass_rate", "pass_k", "pass_length"]
    tables = [scored.table, dataset.table.select_columns(names)]
    check_pass_rates(PromptDataset("both", concatenate_datasets(tables), "prompt", "answer"), resolve(), renderer)
    assert "have no record of the model, prompt rendering and verdict they were computed with in some rows;" in (
        capsys.readouterr().err
    )
