"""A run's final model as the start of another run: the same model, tokenizer and prompts, with the embedded preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prepo_cli.config import read_yaml, resolve
from prepo_cli.errors import UsageError
from prepo_cli.policy.loading import load_tokenizer, model_source
from prepo_cli.training.train import train
from tests.metrics import metrics

SMALL = [
    "training.prompts_per_step=4",
    "training.num_generations=4",
    "training.learning_rate=1e-3",
    "evaluation.limit=8",
    "evaluation.num_samples=2",
    "reporting.figures=false",
    "training.total_steps=2",
    "recipe=grpo",
]


@pytest.fixture(scope="module", params=["whole", "adapters"])
def first(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    adapters = ["model.use_peft=true", "model.lora_alpha=256", "training.learning_rate=9e-3"]
    more = adapters if request.param == "adapters" else []
    train(resolve(sets=[*SMALL, f"output_dir={folder}", *more]))
    return folder


def evaluations(folder: Path) -> list[tuple[list[float], float]]:
    """Accuracy by prompt, and the mean length of all completions, which moves before accuracy does."""
    lines = map(json.loads, (folder / "evaluations.jsonl").open())
    return [(line["per_prompt"], line["mean_length"]) for line in lines]


def test_it_starts_where_the_other_ended(first: Path, tmp_path: Path) -> None:
    config = resolve(sets=[*SMALL, f"model.model_name_or_path={first}", f"output_dir={tmp_path / 'second'}"])
    assert config.training.max_completion_length == 96  # of the embedded preset, as for the first run
    assert config.evaluation.dataset_name == "embedded"
    train(config)
    before, after = evaluations(first)
    assert before != after
    assert evaluations(tmp_path / "second")[0] == after
    assert [line["step"] for line in metrics(tmp_path / "second")] == [0, 1]
    assert read_yaml(tmp_path / "second" / "config.yaml")["model"]["model_name_or_path"] == str(first)


def test_tokenizer_and_chat_template_come_along(first: Path) -> None:
    ours, theirs = (load_tokenizer(model_source(name)) for name in ("embedded", str(first)))
    assert theirs.chat_template == ours.chat_template
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 + 4?"}]
    assert theirs.apply_chat_template(chat, add_generation_prompt=True) == ours.apply_chat_template(
        chat, add_generation_prompt=True
    )
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_token_id, ours.pad_token_id)


@pytest.mark.parametrize("model", [".", "final"])
def test_a_run_does_not_replace_the_model_it_starts_from(first: Path, model: str) -> None:
    with pytest.raises(UsageError, match="contains the model that the run starts from; choose another --output-dir"):
        train(
            resolve(sets=[*SMALL, f"model.model_name_or_path={first / model}", f"output_dir={first}"]), overwrite=True
        )
    assert (first / "summary.json").is_file()
