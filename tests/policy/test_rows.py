"""How rows are put into batches, and that what they share makes no difference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.policy import rows as module
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.rows import BATCH_OVERHEAD, Plan, Rows, computed, plan, plan_shared
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.sections import ModelConfig
from tests.models import CONFIGS, VOCAB, make_policy, naive_scores, save_model

RNG = np.random.default_rng(11)
LENGTHS = st.lists(st.integers(0, 40), max_size=9)


def random_rows(prefixes: list[int], rests: list[list[int]]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of random tokens after random prefixes, and the span of what follows the prefix."""
    rows, spans = [], []
    for length, lengths in zip(prefixes, rests, strict=True):
        prefix = RNG.integers(2, VOCAB, size=length).tolist()
        for rest in lengths:
            rows.append(prefix + RNG.integers(2, VOCAB, size=rest).tolist())
            spans.append((length, length + rest))
    return rows, spans


def lengths_of(plan: Plan, rows: list[list[int]]) -> list[list[int]]:
    return [[len(rows[i]) for i in batch] for batch in plan.batches]


@given(lengths=LENGTHS, max_tokens=st.integers(1, 100), overhead=st.integers(0, 60))
def test_batches_cost_least_of_all_within_the_bound(lengths: list[int], max_tokens: int, overhead: int) -> None:
    """Of all ways to cut the rows, sorted by length, into batches."""

    def cost(batch: list[int]) -> float:
        padded = len(batch) * max(*batch, 1)
        return padded + overhead if padded <= max_tokens or len(batch) == 1 else np.inf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_OVERHEAD", overhead)
        batches = plan(lengths, max_tokens).batches
    ordered, best = sorted(lengths, reverse=True), np.inf
    for cuts in range(2 ** max(len(ordered) - 1, 0)):
        starts = [0, *(i for i in range(1, len(ordered)) if cuts >> (i - 1) & 1), len(ordered)]
        best = min(best, sum(cost(ordered[a:b]) for a, b in pairwise(starts) if a < b))
    assert [lengths[i] for batch in batches for i in batch] == ordered
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sum(cost([lengths[i] for i in batch]) for batch in batches) == best


def test_many_rows_are_batched_with_little_padding() -> None:
    lengths = RNG.lognormal(6, 1, 4096).astype(int).clip(1, 16_384).tolist()
    batches = plan(lengths, 16_384).batches
    assert sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) < 1.06 * sum(lengths)
    assert len(batches) < 1.2 * sum(lengths) / 16_384 + 20


@given(
    prefixes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    size=st.integers(1, 5),
    longest=st.integers(1, 80),
    max_tokens=st.integers(1, 600),
)
def test_a_shared_plan_has_every_row_once_and_computes_much_less(
    prefixes: list[int], size: int, longest: int, max_tokens: int
) -> None:
    rests = RNG.integers(1, longest + 1, size=(len(prefixes), size)).tolist()
    rows, spans = random_rows(prefixes, rests)
    starts, lengths = [start for start, _ in spans], [len(row) for row in rows]
    found, plain = plan_shared(rows, starts, max_tokens), plan(lengths, max_tokens)
    assert sorted(i for batch in found.batches for i in batch) == list(range(len(rows)))
    if not found.shared:
        assert found == plain
        return
    total = 0
    for batch in found.batches:
        different = {tuple(rows[i][: starts[i]]) for i in batch}
        tokens = len(different) * max(map(len, different)) + len(batch) * max(lengths[i] - starts[i] for i in batch)
        assert tokens <= max_tokens or len(different) == 1
        total += tokens + 2 * BATCH_OVERHEAD
    assert total <= 0.9 * computed(plain, lengths)


@pytest.mark.parametrize(
    ("prefixes", "rests", "shared"),
    [
        ([500] * 4, [[100] * 8] * 4, True),
        ([20] * 4, [[1000, 600, 300, 100]] * 4, False),
        ([500] * 4, [[100]] * 4, False),
        ([1] * 4, [[100] * 8] * 4, False),
    ],
    ids=["long prompts", "long completions of many lengths", "groups of one", "nothing to share"],
)
def test_prefixes_are_shared_where_it_computes_much_less(
    prefixes: list[int], rests: list[list[int]], shared: bool
) -> None:
    rows, spans = random_rows(prefixes, rests)
    assert plan_shared(rows, [start for start, _ in spans], 4096).shared is shared


def test_rows_without_a_prefix_are_not_shared() -> None:
    assert not plan_shared([[1, 2]] * 100, [0] * 100, 4096).shared


SHAPES = [([6, 2, 9], [[3, 1, 8], [5, 5], [2]]), ([1], [[4, 2]]), ([12, 12], [[1, 1], [1]])]


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(("prefixes", "rests"), SHAPES, ids=str)
def test_shared_scores_equal_naive(architecture: str, prefixes: list[int], rests: list[list[int]]) -> None:
    """Also with windows of attention shorter than the rows (gemma2)."""
    policy = make_policy(architecture)
    assert policy.scorer.shares_prefixes
    rows, spans = random_rows(prefixes, rests)
    temperatures = RNG.uniform(0.5, 1.5, len(rows)).tolist()
    logprob_M, entropy_M = policy.scorer(Rows.of(rows, spans, temperatures, 0, "cpu", shared=True), with_entropy=True)
    expected = [
        naive_scores(policy.model, row, *span, t) for row, span, t in zip(rows, spans, temperatures, strict=True)
    ]
    np.testing.assert_allclose(logprob_M.detach(), np.concatenate([found[0] for found in expected]), atol=2e-5)
    np.testing.assert_allclose(entropy_M, np.concatenate([found[1] for found in expected]), atol=2e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(("prefixes", "rests"), SHAPES, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_gradients_equal_those_of_whole_rows(
    architecture: str, prefixes: list[int], rests: list[list[int]], attention: str
) -> None:
    rows, spans = random_rows(prefixes, rests)
    factors = torch.randn(sum(end - start for start, end in spans))
    found = []
    for shared in (True, False):
        policy = make_policy(architecture)
        if policy.model._supports_sdpa:
            policy.model.set_attn_implementation(attention)
        policy.model.train()
        logprob_M, _ = policy.scorer(Rows.of(rows, spans, [0.9] * len(rows), 0, "cpu", shared))
        (logprob_M * factors).sum().backward()
        found.append({name: parameter.grad.numpy() for name, parameter in policy.model.named_parameters()})
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1][name], atol=2e-5, rtol=1e-3, err_msg=name)


def test_no_gradient_of_shared_rows_is_summed_by_indexing() -> None:
    """Several threads would sum it in any order; the states of the scored tokens are gathered once each."""
    policy = make_policy()
    rows, spans = random_rows([6, 3], [[3, 1], [4, 2]])
    logprob_M, _ = policy.scorer(Rows.of(rows, spans, [1.0] * 4, 0, "cpu", shared=True))
    seen, waiting = set[Any](), [logprob_M.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    assert sum(node.name() == "IndexBackward0" for node in seen) == 1


def test_a_policy_shares_prompts_and_scores_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    rows, spans = random_rows([50, 70, 60], [[9] * 8, [5] * 8, [7] * 8])
    monkeypatch.setattr(module, "BATCH_OVERHEAD", 0)
    asked, forward = list[bool](), policy.scorer.forward

    def asking(rows: Rows, *options: Any) -> Any:
        asked.append(rows.prefixes is not None)
        return forward(rows, *options)

    monkeypatch.setattr(policy.scorer, "forward", asking)
    shared = policy.score(rows, spans, [1.0] * len(rows), 300, with_entropy=True)
    assert len(asked) > 1 and all(asked)
    policy.scorer.shares_prefixes = False
    whole = policy.score(rows, spans, [1.0] * len(rows), 300, with_entropy=True)
    for one, other in zip(shared, whole, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)


def test_gradient_checkpointing_shares_nothing(tmp_path: Any) -> None:
    name = str(save_model("qwen2", tmp_path / "model"))
    for checkpointing in (False, True):
        settings = ModelConfig(model_name_or_path=name, gradient_checkpointing=checkpointing)
        assert load_policy(settings, train=True, device="cpu").scorer.shares_prefixes is not checkpointing


def test_a_model_in_bfloat16_shares_too() -> None:
    model = make_policy().model.bfloat16()
    assert TokenScorer(model).shares_prefixes


@pytest.mark.parametrize("broken", ["wrong", "failing"])
def test_a_model_whose_cache_does_not_give_the_same_shares_nothing(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    policy = make_policy()
    forward = policy.model.model.forward

    def other(*args: Any, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is not None and broken == "failing":
            raise NotImplementedError("no cache here")
        return forward(*args, **options)  # without what came before

    monkeypatch.setattr(policy.model.model, "forward", other)
    assert not TokenScorer(policy.model).shares_prefixes
