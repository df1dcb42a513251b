"""vLLM generation, in both of TRL's modes, with a fake engine of the same interface.

TRL's own modes don't run on a CPU: docs/trl.md says what stops them. The fakes stand where vLLM does, so that TRL's
code around them is the real one: colocate's `llm`, and the server mode's client.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from tests.trl.worlds import trainer

MIX = {"selector": "mopps", "budget": "pilot-commit", "filter": "nonzero-variance", "weighting": "rel-entropy"}


class Calls(list[dict[str, Any]]):
    """What the engine was asked for; one call a list entry."""

    syncs = 0


def tokens(prompt: Sequence[int], number: int) -> list[int]:
    return [5 + (sum(prompt) + number) % 3] * (1 + number % 4) + [2]


class FakeGeneration(VLLMGeneration):  # type: ignore[misc]
    """TRL's own class around a fake engine; `calls` are shared by all of them."""

    calls = Calls()

    def _init_vllm(self) -> None:
        self.llm = SimpleNamespace(generate=self._colocated, reset_prefix_cache=lambda: None)
        self.vllm_client = SimpleNamespace(
            generate=self._served, get_server_info=lambda: {"model_config": {"logprobs_mode": "processed_logprobs"}}
        )

    def sync_weights(self) -> None:
        self.calls.syncs += 1

    def _colocated(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append({"n": 1, "rows": len(prompts), "temperature": sampling_params.temperature})
        found = []
        for number, row in enumerate(prompts):
            ids = tokens(row["prompt_token_ids"], number)
            logprobs = [{i: SimpleNamespace(logprob=-1.5, rank=1)} for i in ids]
            one = SimpleNamespace(token_ids=ids, logprobs=logprobs)
            found.append(SimpleNamespace(prompt_token_ids=row["prompt_token_ids"], outputs=[one]))
        return found

    def _served(self, prompts: list[Any], n: int, temperature: float, **settings: Any) -> dict[str, Any]:
        self.calls.append({"n": n, "rows": len(prompts) * n, "temperature": temperature})
        ids = [tokens(prompt, number) for prompt in prompts for number in range(n)]
        return {
            "prompt_ids": prompts, "completion_ids": ids, "logprobs": [[[-1.5] for _ in row] for row in ids],
        }  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    fresh = Calls()
    monkeypatch.setattr(FakeGeneration, "calls", fresh)
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeGeneration)
    monkeypatch.setattr(
        vllm_generation, "SamplingParams", lambda **settings: SimpleNamespace(**settings), raising=False
    )
    return fresh


def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(len(ids) % 2) for ids in completion_ids]


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_rounds_of_ragged_groups(mode: str, calls: Calls, tmp_path: Path) -> None:
    given = MIX | {"temperature_schedule": "tests.trl.test_temperature:Rising"}
    made = trainer(tmp_path, given, reward=length, use_vllm=True, vllm_mode=mode, max_steps=3)
    made.train()
    assert calls.syncs == 3  # once a step, however many rounds it takes
    assert sum(call["rows"] for call in calls) == made.session.costs.rollouts_total
    assert list(dict.fromkeys(call["temperature"] for call in calls)) == [0.5, 0.75, 1.0]
    assert {call["n"] for call in calls} == {1}
    assert len(calls) > 3
    logged = [line for line in made.state.log_history if "sampling/sampling_logp_difference/mean" in line]
    assert len(logged) == 3


def test_neutral_strategies_ask_the_server_as_trl_does(calls: Calls, tmp_path: Path) -> None:
    trainer(tmp_path, {"selector": "full"}, reward=length, use_vllm=True, vllm_mode="server", max_steps=2).train()
    assert [(call["n"], call["rows"]) for call in calls] == [(4, 16)] * 2


def test_log_probs_that_trl_computes_of_rollouts_are_charged(calls: Calls, tmp_path: Path) -> None:
    made = trainer(tmp_path, {"selector": "full"}, reward=length, use_vllm=True, vllm_mode="server", max_steps=1)
    made.train()
    batch = made._buffered_inputs
    rows = sum(int(b["prompt_mask"].sum() + b["completion_mask"].sum()) for b in batch)
    assert made.session.costs.tokens_scored == rows


def test_the_fake_has_the_interface_that_trl_calls() -> None:
    """The fake overrides only what vLLM itself does; what TRL's class calls on it must still be there."""
    source = inspect.getsource(VLLMGeneration)
    assert "self.llm.generate(vllm_prompts, sampling_params=sampling_params, use_tqdm=False)" in source
    assert "self.vllm_client.generate(" in source
    assert "temperature = self.temperature" in source
