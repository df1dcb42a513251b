"""Prompts and perplexities in TRL are those that prepo's own trainer computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig
from trl.trainer.utils import RepeatSampler

from prepo_cli.integrations.trl_data import trl_order
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import perplexities
from prepo_cli.sections import ModelConfig
from tests.trl.worlds import task, trainer

TEXTS = Dataset.from_list([{"prompt": f"{i} and {i * i} are " + "numbers " * (i % 4)} for i in range(24)])


@pytest.mark.parametrize("scope", ["question", "prompt"])
@pytest.mark.parametrize("kind", ["messages", "text", "adapters"])
def test_perplexities_are_those_of_prepos_own_policy(kind: str, scope: str, tmp_path: Path) -> None:
    options = {"peft_config": LoraConfig(target_modules=["q_proj"])} if kind == "adapters" else {}
    data = TEXTS if kind == "text" else task(24)
    made = trainer(tmp_path, {"selector": "ppl-schedule"}, data=data, temperature=0.6, options=options)
    made.model.train()
    prompts = [made._prompts.get(i) for i in (5, 3, 21, 8, 13, 0, 1, 2, 4, 6, 7)]
    found = made.session.probe.perplexity(prompts, scope)
    rendered = [made._prompts.rendered(prompt.index) for prompt in prompts]
    rows = [each.token_ids for each in rendered]
    scores = load_policy(ModelConfig()).score(rows, [r.scored_span(scope) for r in rendered], [1.0] * len(rows), 4096)
    np.testing.assert_allclose(found, perplexities([logprobs for logprobs, _ in scores])[:, 0], rtol=1e-4)
    assert made.session.costs.tokens_scored == sum(map(len, rows))
    assert made.model.training and made.temperature == 0.6


@pytest.mark.parametrize("data", [TEXTS, task(24)], ids=["text", "messages"])
def test_prompts_are_tokenized_as_trl_does(data: Dataset, tmp_path: Path) -> None:
    made = trainer(tmp_path, {"selector": "full"}, data=data)
    expected, _, _ = made._tokenize_prompts([row["prompt"] for row in data])
    assert [made._prompts.rendered(i).token_ids for i in range(24)] == expected
    assert [made._prompts.get(i).num_tokens for i in range(24)] == list(map(len, expected))


def test_columns_become_what_strategies_know_of_a_prompt(tmp_path: Path) -> None:
    data = task(8, id=lambda i: f"row-{i}", source=lambda i: "ab"[i % 2], difficulty=float, pass_rate=lambda i: i / 8)
    made = trainer(tmp_path, {"selector": "full"}, data=data)
    prompt = made._prompts.get(3)
    assert (prompt.id, prompt.source, prompt.difficulty, prompt.pass_rate) == ("row-3", "b", 3.0, 3 / 8)
    assert made.session.strategies.run.columns == {"id", "source", "difficulty", "pass_rate"}


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_order_is_that_of_trls_sampler(shuffle: bool) -> None:
    sampler = RepeatSampler(range(20), mini_repeat_count=1, batch_size=4, shuffle=shuffle, seed=3)
    order = trl_order(20, 3, shuffle)
    assert [list(sampler) for _ in range(3)] == [order(epoch).tolist() for epoch in range(3)]
    assert order(1).tolist() == order(1).tolist()
