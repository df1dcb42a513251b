"""Continuous batching: rollouts that join, wait and come back are those that are generated alone, within memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Lfm2Config

from prepo_cli.engines import bands, decoding, hf, prefill
from prepo_cli.engines.bands import Bands
from prepo_cli.engines.base import Request, Rollout
from prepo_cli.engines.hf import HfEngine
from prepo_cli.engines.kv_cache import allocated, can_regroup, growing_cache
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from tests.models import COMMON, CONFIGS, VOCAB, make_policy

POLICIES = {name: make_policy(name) for name in CONFIGS}
REQUEST = st.builds(
    Request,
    prompt_ids=st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=12),
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    max_tokens=st.integers(1, 20),
)


@pytest.fixture(scope="module", autouse=True)
def short_bands() -> Iterator[None]:
    """Bands of a few tokens, prefills of a few, chunks of one or two, and tokens drawn for three rows at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "FIRST_END", 4)
        patch.setattr(decoding, "CPU_LOGIT_ELEMENTS", 3 * VOCAB)
        patch.setattr(prefill, "BATCH_TOKENS", 40)
        patch.setattr(prefill, "ELEMENTS", 300)
        patch.setattr(bands, "allocated", lambda width: width)  # spare columns would make every batch a single row
        yield


def alone(policy: Policy, request: Request) -> list[Rollout]:
    one = (Request(request.prompt_ids, [seed], request.temperature, request.max_tokens) for seed in request.seeds)
    return [HfEngine(policy, 10**6).generate([each])[0][0] for each in one]


@pytest.mark.parametrize("architecture", CONFIGS)
@settings(max_examples=6, deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=4), max_tokens=st.integers(1, 150), max_rows=st.integers(1, 12))
def test_rollouts_are_those_of_single_rows(
    architecture: str, requests: list[Request], max_tokens: int, max_rows: int
) -> None:
    policy = POLICIES[architecture]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "MAX_ROWS", max_rows)
        together = HfEngine(policy, max_tokens).generate(requests)
    for request, group in zip(requests, together, strict=True):
        for rollout, expected in zip(group, alone(policy, request), strict=True):
            assert rollout.token_ids == expected.token_ids
            assert rollout.truncated == expected.truncated
            np.testing.assert_allclose(rollout.logprobs, expected.logprobs, atol=2e-5)
            np.testing.assert_allclose(rollout.entropies, expected.entropies, atol=2e-5)


@pytest.mark.parametrize("max_tokens", [50, 120, 400])
def test_rows_and_columns_stay_within_the_bound(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    step = decoding.Decoding._step

    def spy(self: decoding.Decoding) -> None:
        step(self)
        seen.append(tuple(self.mask_BL.shape))

    monkeypatch.setattr(decoding.Decoding, "_step", spy)
    requests = [Request([5] * (i + 1), list(range(6)), 1.0, 30) for i in range(8)]
    HfEngine(make_policy(eos=()), max_tokens).generate(requests)
    assert max(rows for rows, _ in seen) > 1
    assert all(rows == 1 or rows * columns <= max_tokens for rows, columns in seen)
    # Columns only as long as they are needed: the widest row's.
    assert max(columns for _, columns in seen) <= 8 + 30


def test_waiting_rows_join_before_the_others_have_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = decoding.Decoding._step

    def spy(self: decoding.Decoding) -> None:
        nonlocal steps
        steps += 1
        step(self)

    monkeypatch.setattr(decoding.Decoding, "_step", spy)
    monkeypatch.setattr(hf, "MAX_ROWS", 2)
    lengths = [40, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    HfEngine(make_policy(eos=()), 10**6).generate([Request([5], [0], 1.0, length) for length in lengths])
    assert steps == 39  # the first token comes from the prefill; the others keep up beside the longest


@pytest.mark.parametrize(
    ("attention", "lengths", "elements", "pieces"),
    [
        ("sdpa", [20], 20 * COMMON["intermediate_size"], 1),
        ("sdpa", [20], 20 * COMMON["intermediate_size"] - 1, 3),
        ("sdpa", [20, 20], 20 * COMMON["intermediate_size"], 5),
        ("eager", [20], 20 * COMMON["intermediate_size"], 3),
    ],
    ids=["alone", "too many values", "two contexts", "another attention"],
)
def test_a_context_is_prefilled_in_one_piece_where_attention_needs_no_mask(
    monkeypatch: pytest.MonkeyPatch, attention: str, lengths: list[int], elements: int, pieces: int
) -> None:
    policy = make_policy()
    policy.model.set_attn_implementation(attention)
    monkeypatch.setattr(prefill, "ELEMENTS", elements)
    forward, calls = policy.model.forward, list[Any]()
    monkeypatch.setattr(policy.model, "forward", lambda **options: calls.append(options) or forward(**options))
    contexts = [[2 + (i + n) % (VOCAB - 2) for i in range(n)] for n in lengths]
    ((batch, _, logits_PV),) = prefill.prefill(policy.model, contexts, 0, "cpu")
    assert len(calls) == pieces
    for p, c in enumerate(batch):
        expected_V = forward(input_ids=torch.tensor([contexts[c]])).logits[0, -1]
        torch.testing.assert_close(logits_PV[p], expected_V, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_prefilled_once_for_its_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[list[int]] = []
    original = decoding.prefill

    def spy(model: Any, given: Any, *args: Any) -> Any:
        contexts.extend(given)
        return original(model, given, *args)

    monkeypatch.setattr(decoding, "prefill", spy)
    HfEngine(make_policy(), 10**6).generate([Request([5, 6], list(range(9)), 1.0, 4), Request([5, 7], [1], 1.0, 4)])
    assert sorted(contexts) == [[5, 6], [5, 7]]


def test_an_architecture_whose_rows_cannot_join_generates_wave_after_wave() -> None:
    torch.manual_seed(0)
    shape = COMMON | {"num_hidden_layers": 3}
    model = AutoModelForCausalLM.from_config(Lfm2Config(**shape, layer_types=["conv", "full_attention", "conv"]))
    model.eval()
    assert not can_regroup(growing_cache(model.config))
    policy = Policy(model, None, TokenScorer(model), torch.device("cpu"), frozenset({1}), 0)
    requests = [Request([5, 6, 7] * (i + 1), [0], 0.0, 10) for i in range(4)]
    for request, group in zip(requests, HfEngine(policy, 30).generate(requests), strict=True):
        output = model.generate(torch.tensor([request.prompt_ids]), do_sample=False, max_new_tokens=10, eos_token_id=1)
        assert group[0].token_ids == output[0, len(request.prompt_ids) :].tolist()


@given(st.integers(1, 10**7), st.integers(1, 2000), st.lists(st.tuples(st.integers(1, 999), st.integers(1, 9999))))
def test_bands_only_go_up_and_lie_above_the_shortest(
    max_tokens: int, max_rows: int, calls: list[tuple[int, int]]
) -> None:
    chosen, last = Bands(max_tokens, max_rows), 0
    for shortest, count in calls:
        chosen.advance(shortest, count, longest=1000)
        assert last <= chosen.end <= 1000
        assert chosen.end > shortest
        assert chosen.end == 1000 or min(count, max_rows) > chosen.room(1000)
        assert 1 <= chosen.room(chosen.end) <= max_rows
        last = chosen.end


def test_spare_columns_count() -> None:
    """What `Bands` counts is what the cache allocates."""
    cache = growing_cache(CONFIGS["qwen2"])
    make_policy().model(input_ids=torch.ones(3, 100, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert cache.layers[0]._buffers[0].shape[2] == allocated(100) > 100
