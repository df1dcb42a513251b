"""Log-probs, entropies, perplexity and gradients against one-sequence float64 references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.policy import output_matrix, scoring
from prepo_cli.policy import policy as policy_module
from prepo_cli.policy.rows import Rows
from tests.models import CONFIGS, VOCAB, make_policy, naive_scores

RNG = np.random.default_rng(3)
ROWS = [RNG.integers(2, VOCAB, size=n).tolist() for n in (3, 17, 9, 30, 2)]
SPANS = [(1, 3), (5, 17), (0, 9), (12, 20), (1, 2)]
TEMPERATURES = [1.0, 0.7, 1.3, 1.0, 2.0]


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_scores_equal_naive_whatever_the_batch(architecture: str, max_tokens: int) -> None:
    policy = make_policy(architecture)
    assert policy.scorer.splits
    scores = policy.score(ROWS, SPANS, TEMPERATURES, max_tokens, with_entropy=True)
    for row, span, temperature, (logprobs, entropies) in zip(ROWS, SPANS, TEMPERATURES, scores, strict=True):
        naive_logprobs, naive_entropies = naive_scores(policy.model, row, *span, temperature)
        np.testing.assert_allclose(logprobs, naive_logprobs, atol=2e-5)
        np.testing.assert_allclose(entropies, naive_entropies, atol=2e-5)


def test_what_follows_a_span_is_not_computed() -> None:
    policy = make_policy()
    scores = policy.score(ROWS, SPANS, TEMPERATURES, 40)
    ended = [row[:end] for row, (_, end) in zip(ROWS, SPANS, strict=True)]
    batches = list(policy.score_batches(ROWS, SPANS, TEMPERATURES, 40))
    assert sorted(row for _, batch in batches for row in batch.rows) == sorted(ended)
    for (ours, _), (alone, _) in zip(scores, policy.score(ended, SPANS, TEMPERATURES, 40), strict=True):
        assert ours.tolist() == alone.tolist()


def test_prompts_share_what_is_before_their_questions() -> None:
    policy = make_policy()
    system = RNG.integers(2, VOCAB, size=60).tolist()
    rows = [system + RNG.integers(2, VOCAB, size=n).tolist() for n in (8, 4, 6, 7)] * 8
    spans = [(60, len(row) - 2) for row in rows]
    batches = list(policy.score_batches(rows, spans, [1.0] * len(rows), 10_000))
    assert all(batch.arrangement.shared for _, batch in batches)
    for row, span, (logprobs, _) in zip(rows, spans, policy.score(rows, spans, [1.0] * 32, 10_000), strict=True):
        naive, _ = naive_scores(policy.model, row, *span, 1.0)
        np.testing.assert_allclose(logprobs, naive, atol=2e-5)


def test_a_cpu_scores_no_more_tokens_at_once_than_suit_its_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    whole = policy.score(ROWS, SPANS, TEMPERATURES, 10_000, with_entropy=True)
    seen: list[int] = []
    policy.scorer.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(policy_module, "CPU_TOKENS", 40)
    for ours, expected in zip(policy.score(ROWS, SPANS, TEMPERATURES, 10_000, True), whole, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert len(seen) > 1 and max(seen) <= 40


def test_a_head_that_does_not_split_falls_back_to_full_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("llama")
    plain = policy.score(ROWS, SPANS, TEMPERATURES, 100)
    # The split would now cap what the model does not.
    monkeypatch.setattr(policy.model.config, "final_logit_softcapping", 0.5, raising=False)
    policy.scorer = scoring.TokenScorer(policy.model)
    assert not policy.scorer.splits
    for (ours, _), (expected, _) in zip(policy.score(ROWS, SPANS, TEMPERATURES, 100), plain, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_perplexity_of_a_span_and_of_the_whole_prompt(architecture: str) -> None:
    policy = make_policy(architecture)
    for spans in (SPANS, [(0, len(row)) for row in ROWS]):
        ppl_N2 = policy.perplexity(ROWS, spans, 64)
        for row, span, (ppl, count) in zip(ROWS, spans, ppl_N2, strict=True):
            naive, _ = naive_scores(policy.model, row, *span, 1.0)
            assert count == len(naive)
            assert ppl == pytest.approx(np.exp(-sum(naive) / len(naive)), rel=1e-4)


def test_perplexity_of_nothing_is_nan() -> None:
    ppl_N2 = make_policy().perplexity([[5], [5, 6], [5, 6]], [(0, 1), (2, 2), (0, 0)], 64)
    assert np.isnan(ppl_N2[:, 0]).all() and (ppl_N2[:, 1] == 0).all()


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "hooked"])
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(("chunk_tokens", "more_chunks"), [(1, 0), (5, 0), (1000, 0), (5, 3), (1000, 1)])
def test_gradient_in_chunks_equals_float64_autograd(
    monkeypatch: pytest.MonkeyPatch, chunk_tokens: int, more_chunks: int, architecture: str, plain: bool
) -> None:
    """Also if another process needs more chunks, which are empty in this one; only a hooked matrix waits for it."""
    monkeypatch.setattr(output_matrix, "CHUNK_ELEMENTS", chunk_tokens * VOCAB)
    policy = make_policy(architecture)
    called = []
    if not plain:
        policy.model.get_output_embeddings().register_forward_hook(
            lambda module, states, _: called.append(len(states[0]))
        )
        policy.scorer.common_chunk_count = lambda chunks: chunks + more_chunks
    logprobs, _ = policy.scorer(Rows.of(ROWS, SPANS, TEMPERATURES, 0, "cpu"))
    assert len(called) == (0 if plain else -(-len(logprobs) // chunk_tokens) + more_chunks)
    factors = torch.linspace(-1, 1, len(logprobs))
    (logprobs * factors).sum().backward()
    compare_with_float64(policy.model, factors)


def compare_with_float64(model: Any, factors: torch.Tensor) -> None:
    """A model's gradients against those of the log-probs' sum, each times its factor, row by row in float64."""
    double = type(model)(model.config).double()
    double.load_state_dict(model.state_dict())
    total, used = torch.zeros((), dtype=torch.float64), 0
    for row, (start, end), temperature in zip(ROWS, SPANS, TEMPERATURES, strict=True):
        logits = double(input_ids=torch.tensor([row])).logits[0] / temperature
        for position in range(max(start, 1), end):
            total = total + factors[used] * torch.log_softmax(logits[position - 1], -1)[row[position]]
            used += 1
    assert used == len(factors)
    total.backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), double.named_parameters(), strict=True):
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=3e-5, rtol=1e-3, err_msg=name)
