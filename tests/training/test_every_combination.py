"""Every strategy, every recipe and all selector x budget x weighting, through the real loop with a fake engine.

The engine answers each seed with a boxed number, right as often as the prompt's true pass rate says; the model is
tiny. What is checked: exact counts, costs that add up, and that a resumed run equals the uninterrupted one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prepo_cli.config import ASSETS, resolve
from prepo_cli.engines.base import Request, Rollout
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.recipes import recipes
from prepo_cli.training import build
from prepo_cli.training.train import train
from strategies import registry
from strategies.types import derive_seed
from tests.metrics import timeless

TOKENIZER = load_tokenizer(str(ASSETS / "model"))
STEPS = 4
SETTINGS = [
    f"training.total_steps={STEPS}",
    "training.prompts_per_step=4",
    "training.num_generations=4",
    "training.max_completion_length=16",
    "training.save_steps=1",
    "training.save_total_limit=10",
    "training.max_rounds=3",
    "evaluation.dataset_name=null",
    "reporting.figures=false",
]


class FakeEngine:
    """Answers from seeds alone."""

    shares_weights = exact_logprobs = True
    serves_all = scores_prompts = False

    def generate(self, requests: Sequence[Request], progress: Any = None) -> list[list[Rollout]]:
        return [[self._answer(request, seed) for seed in request.seeds] for request in requests]

    def _answer(self, request: Request, seed: int) -> Rollout:
        rng = np.random.default_rng(seed)
        rate = min(max(1.6 * derive_seed("rate", *request.prompt_ids) / 2**63 - 0.3, 0), 1)
        text = f"\\boxed{{{0 if rng.random() < rate else 1}}}<|im_end|>"
        ids = TOKENIZER("7. " * int(rng.integers(0, 4)) + text)["input_ids"]
        return Rollout(
            ids, -rng.random(len(ids)).astype(np.float32), rng.random(len(ids)).astype(np.float32), truncated=False
        )

    def sync(self, weights: Any) -> None:
        """Nothing to take over."""

    def sleep(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    with path.open("w") as file:
        for i in range(30):
            row = {"id": f"r{i}", "prompt": f"What is {i} - {i}?", "answer": "0", "source": f"s{i % 3}",
                   "difficulty": i % 5, "rank": i / 30, "ppl": 1.0 + i % 7, "pass_rate": i % 9 / 8}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(config: Any, **options: Any) -> Policy:
        torch.manual_seed(0)
        folder = Path(config.model_name_or_path)
        shape = {"vocab_size": 652, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                 "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}  # fmt: skip
        saved = (folder / "config.json").is_file()
        model = LlamaForCausalLM.from_pretrained(folder) if saved else LlamaForCausalLM(LlamaConfig(**shape))
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return Policy(model, TOKENIZER, TokenScorer(model), torch.device("cpu"), frozenset({2}), 0)

    monkeypatch.setattr(build, "load_policy", tiny)
    monkeypatch.setattr(build, "build_engine", lambda *parts, **options: FakeEngine())


def run(folder: Path, dataset: Path, flags: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    config = resolve(flags=flags | {"data.dataset_name": str(dataset), "output_dir": str(folder)}, sets=SETTINGS)
    train(config, **options)
    return timeless(folder)


def check(folder: Path, dataset: Path, flags: dict[str, Any]) -> None:
    lines = run(folder, dataset, flags)
    assert [line["step"] for line in lines] == list(range(STEPS))
    for line in lines:
        assert line["groups_trained"] <= 4
        assert line["rollouts_trained"] <= line["cost/rollouts_total"]
        assert line["updated"] == (line["grad_norm"] > 0)
        if line["rounds"] == 1 and not str(flags.get("strategies.budget", "")).startswith("pilot"):
            assert line["groups_rolled"] == 4
    total = lines[-1]["cost/rollouts_total"]
    assert total >= STEPS * 4 * 2
    for checkpoint in sorted((folder / "checkpoints").iterdir())[2:]:
        shutil.rmtree(checkpoint)
    weights = (folder / "final" / "model.safetensors").read_bytes()
    assert run(folder, dataset, flags, resume=True) == lines
    assert (folder / "final" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe(recipe: str, tmp_path: Path, dataset: Path) -> None:
    check(tmp_path / "run", dataset, {"recipe": recipe})


@pytest.mark.parametrize(
    ("slot", "name"), [(cls.slot, cls.name) for cls in registry.listed()], ids=lambda value: str(value)
)
def test_every_strategy(slot: str, name: str, tmp_path: Path, dataset: Path) -> None:
    check(tmp_path / "run", dataset, {f"strategies.{slot}": name})


NAMES = {slot: [cls.name for cls in registry.listed() if cls.slot == slot] for slot in registry.SLOTS}


@pytest.mark.parametrize("selector", NAMES["selector"])
def test_all_selectors_train_with_all_budgets_and_all_weightings(selector: str, tmp_path: Path, dataset: Path) -> None:
    """Each budget once, with a weighting that changes from selector to selector; tests/strategies has all triples."""
    turn = NAMES["selector"].index(selector)
    for number, budget in enumerate(NAMES["budget"]):
        weighting = NAMES["weighting"][(number + turn) % len(NAMES["weighting"])]
        flags = {"strategies.selector": selector, "strategies.budget": budget, "strategies.weighting": weighting}
        lines = run(tmp_path / budget, dataset, flags | {"training.total_steps": 2, "training.save_steps": 9})
        generated = lines[-1]["cost/rollouts_total"]
        rolled_out = sum(line["groups_rolled"] for line in lines)
        if budget == "pilot-commit":
            assert rolled_out * 2 <= generated <= rolled_out * 4
        else:
            assert generated == rolled_out * 4
