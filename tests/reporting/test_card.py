"""The model card: front matter that the Hub's own library reads, results, and a snippet that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from prepo_cli import __version__
from prepo_cli.config import ASSETS, resolve
from prepo_cli.reporting.card import hub_name, model_card, shown
from prepo_cli.sections import RunConfig


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def summary(**changed: Any) -> dict[str, Any]:
    return {
        "recipe": "prepo",
        "steps": 1200,
        "output_dir": "/home/someone/secret/run",
        "metric": "avg@4",
        "before": {"avg@4": interval(0.25), "pass@2": interval(0.4), "prompts": 1500},
        "after": {"avg@4": interval(0.5), "pass@2": interval(0.7), "prompts": 1500},
        "difference": {"value": 0.25, "low": 0.2, "high": 0.3},
        "cost": {
            "rollouts_total": 12800, "rollouts_trained": 6400, "tokens_generated": 1234567, "tokens_scored": 99,
            "seconds": 55.71,
        },
    } | changed  # fmt: skip


def configuration(**flags: Any) -> RunConfig:
    given = {
        "model.model_name_or_path": "someone/some-model",
        "data.dataset_name": "someone/some-data",
        "evaluation.dataset_name": "someone/some-test",
        "evaluation.num_samples": 4,
    }
    return resolve(flags=given | {key.replace("__", "."): value for key, value in flags.items()})


def front_matter(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = yaml.safe_load(found.group(1))
    return loaded


def test_the_hub_library_reads_the_front_matter() -> None:
    card = ModelCard(model_card(configuration(reporting__hub_model_id="me/my-model"), summary()))
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.base_model, data.datasets) == ("someone/some-model", ["someone/some-data"])
    assert {"prepo", "reinforcement-learning"} <= set(data.tags)
    assert data.license is None, "the user chooses it"
    assert data.model_name == "my-model"
    assert [(r.dataset_type, r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("someone/some-test", "test", "avg@4", 0.5),
        ("someone/some-test", "test", "pass@2", 0.7),
    ]
    assert card.text.lstrip().startswith("# someone/some-model, trained with prepo (prepo)")


def test_it_still_reads_after_the_user_adds_a_licence() -> None:
    card = model_card(configuration(), summary())
    (line,) = [line for line in card.splitlines() if line.startswith("# license:")]
    assert ModelCard(card.replace(line, "license: apache-2.0")).data.license == "apache-2.0"


def test_strategies_are_listed_with_all_parameters_and_papers() -> None:
    card = model_card(configuration(strategies__selector="greso+ppl-schedule:ratio=0.4,pacing=sqrt"), summary())
    (greso, schedule) = [line for line in card.splitlines() if line.startswith("| selector |")]
    assert "| `greso` |" in greso and "https://arxiv.org/abs/2506.02177" in greso
    assert "`ratio=0.4`" in schedule and "`pacing=sqrt`" in schedule and "`scope=" in schedule
    assert "- selector `ppl-schedule`: [arXiv 2511.00794](https://arxiv.org/abs/2511.00794)" in card
    assert "- loss `dapo`: [arXiv 2503.14476]" in card


def test_results_before_and_after_with_intervals_and_the_difference() -> None:
    card = model_card(configuration(), summary())
    assert "| avg@4 | 0.250 [0.200, 0.300] | 0.500 [0.450, 0.550] | +0.250 [+0.200, +0.300] |" in card
    assert "| pass@2 | 0.400 [0.350, 0.450] | 0.700 [0.650, 0.750] |  |" in card
    assert "1,500 prompts, 4 samples each at temperature 1 and top-p 1" in card
    assert "| tokens generated | 1,234,567 |" in card
    assert "| seconds of training | 56 |" in card


def test_without_an_evaluation_there_is_no_result() -> None:
    card = model_card(configuration(), summary(before=None, after=None, difference=None, cost={}))
    assert "model-index" not in front_matter(card)
    assert "## Results" not in card and "## Costs" not in card


def test_an_evaluation_at_the_end_alone() -> None:
    card = model_card(configuration(), summary(before=None, difference=None))
    assert "| avg@4 |  | 0.500 [0.450, 0.550] |  |" in card
    assert front_matter(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5


def test_an_evaluation_at_the_start_alone_says_nothing_about_the_trained_model() -> None:
    card = model_card(configuration(), summary(after=None, difference=None))
    assert "| avg@4 | 0.250 [0.200, 0.300] |  |  |" in card
    assert "model-index" not in front_matter(card)


def test_local_paths_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    config = configuration(model__model_name_or_path="owner/model", data__dataset_name=str(tmp_path / "train.jsonl"))
    card = model_card(config, summary())
    data = front_matter(card)
    assert "base_model" not in data and "datasets" not in data
    assert str(tmp_path) not in card and "secret" not in card
    assert card.splitlines()[card.splitlines().index("---", 1) + 2] == "# model, trained with prepo (prepo)"
    assert "on `train.jsonl`" in card


@pytest.mark.parametrize(
    ("name", "hub", "published"),
    [
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B"),
        ("embedded", None, "embedded"),
        ("./model", None, "model"),
        ("../model", None, "model"),
        ("~/model", None, "model"),
        ("/data/sets/a", None, "a"),
        ("data/train.parquet", None, "train.parquet"),
        ("a/b/c", None, "c"),
    ],
)
def test_hub_names_are_distinguished_from_paths(name: str, hub: str | None, published: str) -> None:
    assert hub_name(name) == hub
    assert shown(name) == published


def test_lora_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model_card(configuration(), summary())
    assert "LoRA" not in plain and "lora" not in front_matter(plain)["tags"]
    monkeypatch.setattr("prepo_cli.reporting.card.version", lambda package: f"version of {package}")
    card = model_card(configuration(model__use_peft=True, model__lora_r=8, model__lora_alpha=12.5), summary())
    assert "LoRA adapters (rank 8, alpha 12.5, dropout 0, target modules all-linear), which are merged" in card
    assert "lora" in front_matter(card)["tags"]
    assert "| peft | version of peft |" in card
    assert "- LoRA: [arXiv 2106.09685]" in card


def test_versions_are_listed() -> None:
    import torch
    import transformers

    card = model_card(configuration(), summary())
    assert f"| prepo | {__version__} |" in card
    assert f"| torch | {torch.__version__} |" in card
    assert f"| transformers | {transformers.__version__} |" in card


def test_reproducing_a_run_does_not_push_it() -> None:
    command = "prepo train --config config.yaml --output-dir runs/reproduced"
    assert f"{command}\n" in model_card(configuration(), summary())
    pushed = configuration(reporting__push_to_hub=True, reporting__hub_model_id="me/my-model")
    assert f"{command} --set reporting.push_to_hub=false\n" in model_card(pushed, summary())


def test_the_embedded_run() -> None:
    card = model_card(resolve(), summary())
    data = front_matter(card)
    assert "base_model" not in data and "datasets" not in data
    assert data["model-index"][0]["name"] == "embedded-prepo"
    assert "prepo's embedded model after 1,200 steps" in card


@pytest.mark.parametrize("system", [None, "Answer 'shortly',\nwith \"care\"."])
def test_the_snippet_runs(system: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(
        reporting__hub_model_id="me/my-model",
        data__system_prompt=system,
        data__chat_template_kwargs={"enable_thinking": False},
        training__max_completion_length=4,
    )
    (code,) = re.findall(r"```python\n(.*?)```", model_card(config, summary()), re.DOTALL)
    assert 'name = "me/my-model"' in code
    assert "tokenize=False, enable_thinking=False)" in code
    found: dict[str, Any] = {}
    exec(code.replace("me/my-model", str(ASSETS / "model")), found)
    assert found["output"].shape[1] <= found["inputs"]["input_ids"].shape[1] + 4
    if system is not None:
        assert found["messages"][0] == {"role": "system", "content": system}
    assert capsys.readouterr().out.endswith("\n")


def test_nothing_in_a_name_is_markup(tmp_path: Path) -> None:
    hostile = "x`|<img src=a>\x1b[31m $y$ [a](b)\n# heading"
    config = configuration(
        data__dataset_name=f"{tmp_path}/{hostile}.jsonl",
        evaluation__dataset_name=f"{tmp_path}/{hostile}.jsonl",
        evaluation__split=hostile,
        rewards__functions=["exact", hostile],
        data__chat_template_kwargs={"good": 1, "x); import os #": 2},
        reporting__hub_model_id='me/a"; import os',
    )
    card = model_card(config, summary(recipe=hostile))
    body = card.split("\n---\n", 1)[1]
    assert "\x1b" not in card and "import os #" not in card
    assert "\n# heading" not in body and "<img" not in body.replace("\\<img", "").replace("`x'¦<img", "")
    assert 'name = "me/a\\"; import os"' in body
    assert front_matter(card)["model-index"][0]["results"][0]["dataset"]["split"] == hostile
    heads = [line for line in body.splitlines() if line.startswith("# ")]
    assert len(heads) == 1
