"""A model whose weights are NaN or infinite ends in one line, wherever its log-probs are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.engines.sampling import sample
from prepo_cli.errors import RunError
from prepo_cli.evaluation.ppl_scoring import score_dataset
from prepo_cli.evaluation.settings import ScoringConfig
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.policy.policy import Policy
from prepo_cli.rewards.metrics import refuse_unscored
from tests.models import make_policy, save_model
from tests.training.test_update import make_updater, still


def broken(value: float) -> Policy:
    policy = make_policy()
    with torch.no_grad():
        next(iter(policy.model.parameters()))[5] = value
    return policy


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_p": 0.5}], ids=str)
def test_the_engine_refuses_to_sample_from_it(value: float, options: dict[str, float]) -> None:
    request = Request([5, 6, 7], [1, 2], options.get("temperature", 1.0), 8, options.get("top_p", 1.0))
    with pytest.raises(RunError, match="log-probs are not finite"):
        HfEngine(broken(value), 999).generate([request])


def test_only_rows_with_bad_logits_are_bad() -> None:
    """A row of tokens that may not be drawn, with logits of minus infinity, is a good one."""
    logits_BV = torch.tensor([[math.nan, 0.0, 0.0], [-math.inf, 0.0, 0.0], [0.0, math.nan, 1.0], [3.0, 0.0, 0.0]])
    token_B, logprob_B, _ = sample(logits_BV, torch.ones(4), None, torch.full((4,), 0.999, dtype=torch.float64))
    assert torch.isfinite(logprob_B).tolist() == [False, True, False, True]
    assert token_B.max() < 3


def test_scoring_in_training_refuses_it() -> None:
    policy = broken(math.nan)
    team = make_updater(policy, still(policy)).team
    with pytest.raises(RunError, match="log-probs are not finite"):
        team.score([[5, 6, 7]], [(1, 3)], [1.0])


def test_score_ppl_names_the_prompt(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    (token,) = load_tokenizer(str(model))("8", add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][token] = math.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "fine", "prompt": "1 + 1"}\n{"id": "bad", "prompt": "8 + 1"}\n')
    config = ScoringConfig(
        dataset_name=str(data), model={"model_name_or_path": str(model)}, output=tmp_path / "out.jsonl"
    )
    with pytest.raises(RunError, match="the perplexity of prompt 'bad' is nan"):
        score_dataset(config)


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        ([{"a": [np.nan, np.nan]}], True),
        ([{"a": [np.nan], "b": [np.nan]}, {"a": [np.nan], "b": [0.0]}], False),
        ([{"a": [np.nan], "b": [np.nan]}, {"a": [np.nan], "b": [np.nan]}], True),
        ([{"a": [0.0, np.nan]}], False),
        ([{"a": []}], False),
        ([], False),
    ],
)
def test_rewards_of_which_none_is_a_number_are_refused(parts: list[dict[str, Any]], refused: bool) -> None:
    arrays = [{name: np.array(values) for name, values in part.items()} for part in parts]
    if refused:
        with pytest.raises(RunError, match=r"no reward function \(a.*for any completion of step 3"):
            refuse_unscored(arrays, "step 3")
    else:
        refuse_unscored(arrays, "step 3")
