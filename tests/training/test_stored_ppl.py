"""Stored perplexities: equal to what a run computes itself, and checked when a run starts that they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import concatenate_datasets
from scipy.stats import spearmanr
from typer.testing import CliRunner

from prepo_cli.config import resolve
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Rendered, Renderer
from prepo_cli.errors import UsageError
from prepo_cli.main import app
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import Policy
from prepo_cli.sections import ModelConfig
from prepo_cli.training.probe import PolicyProbe
from prepo_cli.training.stored_ppl import check_stored_ppl
from prepo_cli.training.team import Team
from prepo_cli.training.train import train
from strategies.registry import create
from strategies.types import RunInfo
from tests.metrics import timeless

RUNNER = CliRunner()
SYSTEM = "You are a careful teacher. Answer with a number, in a box."
RUN = RunInfo(num_prompts=10, total_steps=2, prompts_per_step=2, num_generations=2, columns=frozenset({"ppl"}))


@dataclass(frozen=True)
class Scored:
    """A scored dataset, with and without the system prompt."""

    with_system: Path
    without: Path


def score(dataset: str, output: Path, *arguments: str) -> Path:
    result = RUNNER.invoke(app, ["score-ppl", dataset, "--output", str(output), *arguments])
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    return Scored(
        score("embedded", folder / "with.jsonl", "--limit", "200", "--system-prompt", SYSTEM),
        score("embedded", folder / "without.jsonl", "--limit", "200"),
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig())


class Alone(Team):
    """A team of one policy, for scoring alone."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def perplexity(self, rows: list[list[int]], spans: list[tuple[int, int]]) -> np.ndarray:
        return self.policy.perplexity(rows, spans, 4096)


def stored(path: Path) -> np.ndarray:
    return np.array([json.loads(line)["ppl"] for line in path.read_text(encoding="utf-8").splitlines()])


def test_scores_equal_the_live_probe_of_a_run_that_renders_alike(scored: Scored, policy: Policy) -> None:
    dataset = load_prompts(str(scored.with_system))
    prompts = Prompts(dataset, Renderer(policy.tokenizer, SYSTEM), 4096)
    probe = PolicyProbe(Alone(policy), prompts)
    live = probe.perplexity([dataset.prompt(index) for index in range(len(dataset))])
    np.testing.assert_allclose(stored(scored.with_system), live, rtol=1e-5)
    assert spearmanr(stored(scored.with_system), live).statistic == pytest.approx(1)
    assert spearmanr(stored(scored.without), live).statistic < 0.9


def test_a_run_selects_the_same_prompts_by_live_and_by_stored_perplexity(scored: Scored, tmp_path: Path) -> None:
    sets = ["training.total_steps=1", "training.prompts_per_step=4", "training.num_generations=2",
            "training.max_completion_length=16", "evaluation.dataset_name=null", "reporting.figures=false",
            f"data.dataset_name={scored.with_system}"]  # fmt: skip
    for source in ("live", "stored"):
        flags = {"strategies.selector": f"ppl-low:source={source}", "data.system_prompt": SYSTEM}
        train(resolve(flags=flags, sets=[*sets, f"output_dir={tmp_path / source}"]))
    (live,), (from_file,) = (timeless(tmp_path / source) for source in ("live", "stored"))
    for name in ("mean", "min", "max"):
        key = f"selector/ppl_candidates_{name}"
        assert from_file[key] == pytest.approx(live[key], rel=1e-5)
    chosen = [pq.read_table(tmp_path / s / "rollouts" / "step_000000.parquet")["prompt_id"] for s in ("live", "stored")]
    assert chosen[0] == chosen[1]
    assert live["cost/tokens_scored"] > from_file["cost/tokens_scored"]


def check(path: Path | PromptDataset, policy: Policy, **given: Any) -> None:
    dataset = load_prompts(str(path)) if isinstance(path, Path) else path
    renderer = Renderer(policy.tokenizer, given.get("system_prompt"), given.get("template_kwargs"))
    scopes = given.get("scopes", frozenset({"question"}))
    check_stored_ppl(scopes, dataset, given.get("model", ModelConfig()), renderer)


def test_nothing_is_said_where_all_is_equal_or_nothing_is_read(
    scored: Scored, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    check(scored.with_system, policy, system_prompt=SYSTEM)
    check(scored.without, policy)
    check(scored.without, policy, system_prompt=SYSTEM, scopes=frozenset(), model=ModelConfig(model_name_or_path="x/y"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "another chat template, template argument, system prompt or tokenizer"),
        ({"system_prompt": SYSTEM + "!"}, "another chat template, template argument, system prompt or tokenizer"),
        ({"system_prompt": SYSTEM, "template_kwargs": {"enable_thinking": False}}, "template argument"),
        ({"system_prompt": SYSTEM, "model": ModelConfig(model_name_or_path="a/b")}, "with model 'embedded' (files"),
        ({"model": ModelConfig(model_name_or_path="a/b", revision="v2")}, "not 'a/b@v2' and were computed with"),
    ],
)
def test_another_model_or_rendering_is_said_in_one_line(
    scored: Scored, policy: Policy, capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: str
) -> None:
    check(scored.with_system, policy, **given)
    err = capsys.readouterr().err
    assert err.startswith(f"prepo: warning: the stored perplexities of {scored.with_system} were computed with ")
    assert (said in err, err.count("\n")) == (True, 1)


def test_a_hand_made_or_mixed_column_is_said(
    scored: Scored, policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = tmp_path / "by_hand.jsonl"
    by_hand.write_text('{"question": "1 + 1?", "answer": "2", "ppl": 3.5}\n')
    check(by_hand, policy)
    err = capsys.readouterr().err
    assert "have no record of the model, scope and prompt rendering they were computed with;" in err
    tables = [load_prompts(str(path)).table.select_columns(["question", "answer", "ppl"]) for path in (by_hand,)]
    tables += [load_prompts(str(path)).table for path in (scored.with_system, scored.without)]
    check(PromptDataset("mixed", concatenate_datasets(tables), "question", "answer"), policy)
    err = capsys.readouterr().err
    assert "computed with in some rows and were computed with another chat template" in err
    assert err.count("\n") == 1


def test_another_scope_is_refused(scored: Scored, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scope=question, but the selector uses scope=prompt; .*--scope prompt"):
        check(scored.without, policy, scopes=frozenset({"prompt"}))
    sets = [f"data.dataset_name={scored.without}", "training.total_steps=1", f"output_dir={tmp_path / 'run'}"]
    arguments = ["train", "--selector", "greso+ppl-schedule:source=stored,scope=prompt"]
    result = RUNNER.invoke(app, [*arguments, *(word for item in sets for word in ("--set", item))])
    assert result.exit_code == 2
    assert "the selector uses scope=prompt" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_moved_folder_is_the_same_model_and_changed_weights_are_not(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
    path = score("embedded", tmp_path / "s.parquet", "--limit", "5", "--model", str(folders[0]))
    check(path, policy, model=ModelConfig(model_name_or_path=str(folders[1])))
    assert capsys.readouterr().err == ""
    weights = folders[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    check(path, policy, model=ModelConfig(model_name_or_path=str(folders[0])))
    assert f"not '{folders[0]}' (files " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "scopes"),
    [
        ("random", set()),
        ("ppl-schedule", set()),
        ("ppl-low:source=stored", {"question"}),
        ("calibrated:source=stored,scope=prompt", {"prompt"}),
        ("greso+ppl-schedule:source=stored", {"question"}),
        ("ppl-high:source=stored,scope=prompt+calibrated:source=stored", {"question", "prompt"}),
    ],
)
def test_selectors_say_which_stored_perplexities_they_read(spec: str, scopes: set[str]) -> None:
    assert create("selector", spec, RUN).stored_scopes == scopes


@pytest.mark.parametrize(
    ("span", "scope", "scored_span"),
    [
        ((2, 5), "question", (2, 5)),
        ((0, 2), "question", (0, 2)),
        ((2, 5), "prompt", (0, 7)),
        ((0, 1), "question", (0, 7)),
        ((0, 0), "question", (0, 7)),
    ],
)
def test_a_question_without_a_token_to_score_is_scored_with_its_template(
    span: tuple[int, int], scope: str, scored_span: tuple[int, int]
) -> None:
    assert Rendered(list(range(7)), span).scored_span(scope) == scored_span
