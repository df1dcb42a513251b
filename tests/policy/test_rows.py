"""That how rows are arranged makes no difference to what is computed of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prepo_cli.policy import plans, scoring
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.plans import PADDED, Arrangement, Packing
from prepo_cli.policy.rows import Rows
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.sections import ModelConfig
from tests.models import CONFIGS, VOCAB, make_policy, naive_scores, save_model

RNG = np.random.default_rng(11)
BY_POSITION = "by_position"
"""torch's attention under a name that is not its own: transformers makes its mask from positions that begin again."""
ALL_ATTENTION_FUNCTIONS.register(BY_POSITION, sdpa_attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_POSITION, sdpa_mask)


def random_rows(prefixes: list[int], rests: list[list[int]]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of random tokens after random prefixes, and the span of what follows the prefix."""
    rows, spans = [], []
    for length, lengths in zip(prefixes, rests, strict=True):
        prefix = RNG.integers(2, VOCAB, size=length).tolist()
        for rest in lengths:
            rows.append(prefix + RNG.integers(2, VOCAB, size=rest).tolist())
            spans.append((length, length + rest))
    return rows, spans


SHAPES = [([6, 2, 9], [[3, 1, 8], [5, 5], [2]]), ([1], [[4, 2]]), ([12, 12], [[1, 1], [1]])]
SHARED = Arrangement(shared=True)


def arrangements(count: int) -> list[Arrangement]:
    """All rows shared, in one pack, in two, and each in its own."""
    packs = [(count,), (count // 2, count - count // 2), (1,) * count]
    return [SHARED, *(Arrangement(packs=pack) for pack in packs)]


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(("prefixes", "rests"), SHAPES, ids=str)
def test_arranged_scores_equal_naive(architecture: str, prefixes: list[int], rests: list[list[int]]) -> None:
    """If shared, also with windows of attention shorter than the rows (gemma2)."""
    rows, spans = random_rows(prefixes, rests)
    temperatures = RNG.uniform(0.5, 1.5, len(rows)).tolist()
    for arrangement in arrangements(len(rows)):
        policy = make_policy(architecture)
        assert policy.scorer.shares_prefixes and policy.scorer.packing
        if arrangement.packs and max(map(len, rows)) > policy.scorer.packing.longest:
            assert architecture == "gemma2"
            continue
        arranged = Rows.of(rows, spans, temperatures, 0, "cpu", arrangement)
        logprob_M, entropy_M = policy.scorer(arranged, with_entropy=True)
        expected = [
            naive_scores(policy.model, row, *span, t) for row, span, t in zip(rows, spans, temperatures, strict=True)
        ]
        np.testing.assert_allclose(logprob_M.detach(), np.concatenate([found[0] for found in expected]), atol=2e-5)
        np.testing.assert_allclose(entropy_M, np.concatenate([found[1] for found in expected]), atol=2e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(("prefixes", "rests"), SHAPES, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_of_arranged_rows_equal_those_of_padded_ones(
    architecture: str, prefixes: list[int], rests: list[list[int]], attention: str
) -> None:
    rows, spans = random_rows(prefixes, rests)
    factors = torch.randn(sum(end - start for start, end in spans))
    found = []
    for arrangement in (PADDED, *arrangements(len(rows))):
        policy = make_policy(architecture)
        if policy.model._supports_sdpa:
            policy.model.set_attn_implementation(attention)
        if arrangement.packs and max(map(len, rows)) > policy.scorer.packing.longest:
            continue
        policy.model.train()
        logprob_M, _ = policy.scorer(Rows.of(rows, spans, [0.9] * len(rows), 0, "cpu", arrangement))
        (logprob_M * factors).sum().backward()
        found.append({name: parameter.grad.numpy() for name, parameter in policy.model.named_parameters()})
    for gradients in found[1:]:
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, found[0][name], atol=2e-5, rtol=1e-3, err_msg=name)
    assert len(found) == 5 or architecture == "gemma2"


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize(("prefixes", "rests"), SHAPES, ids=str)
def test_whole_rows_told_apart_by_positions_score_as_naive_and_train_as_padded(
    architecture: str, prefixes: list[int], rests: list[list[int]]
) -> None:
    """Also with windows of attention shorter than the rows (mistral)."""
    rows, spans = random_rows(prefixes, rests)
    spans = [(max(start - 2, 0), end) for start, end in spans]
    temperatures = RNG.uniform(0.5, 1.5, len(rows)).tolist()
    found = []
    for arrangement in (PADDED, Arrangement(packs=(len(rows),), whole=True)):
        policy = make_policy(architecture)
        policy.model.set_attn_implementation(BY_POSITION)
        scorer = TokenScorer(policy.model)
        assert scorer.packs_whole and scorer.packing is None
        policy.model.train()
        logprob_M, entropy_M = scorer(Rows.of(rows, spans, temperatures, 0, "cpu", arrangement), with_entropy=True)
        (logprob_M * torch.linspace(-1, 1, len(logprob_M))).sum().backward()
        found.append({name: parameter.grad.numpy() for name, parameter in policy.model.named_parameters()})
    expected = [
        naive_scores(policy.model, row, *span, t) for row, span, t in zip(rows, spans, temperatures, strict=True)
    ]
    np.testing.assert_allclose(logprob_M.detach(), np.concatenate([scores[0] for scores in expected]), atol=2e-5)
    np.testing.assert_allclose(entropy_M, np.concatenate([scores[1] for scores in expected]), atol=2e-5)
    for name, gradient in found[1].items():
        np.testing.assert_allclose(gradient, found[0][name], atol=2e-5, rtol=1e-3, err_msg=name)


def test_rows_of_a_pack_see_their_own_prefix_and_nothing_else() -> None:
    rows = [[5, 6, 7], [5, 6, 8, 9], [5, 6, 8], [3, 4]]
    found = Rows.of(rows, [(2, 3), (2, 4), (2, 3), (1, 2)], [1.0] * 4, 0, "cpu", Arrangement(packs=(3, 1)))
    assert found.ids_BL.tolist() == [[5, 6, 7, 8, 9, 8], [3, 4, 0, 0, 0, 0]]
    assert found.packs is not None
    assert found.packs.position_BL[0].tolist() == [0, 1, 2, 2, 3, 2]
    assert found.packs.position_BL[1, :2].tolist() == [0, 1]
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [0, 1, 5]]
    assert [row.nonzero()[:, 0].tolist() for row in found.packs.visible_B1LL[0, 0]] == seen
    assert found.packs.visible_B1LL[1, 0].any(dim=1).all()  # padding too: what sees nothing is NaN
    assert found.state_M.tolist() == [1, 1, 3, 1, 6]
    assert found.target_M.tolist() == [7, 8, 9, 8, 4]
    assert found.row_M.tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("arrangement", [PADDED, *arrangements(4)], ids=str)
def test_no_gradient_of_rows_is_summed_by_indexing(arrangement: Arrangement) -> None:
    """Several threads would sum it in any order."""
    policy = make_policy()
    rows, spans = random_rows([6, 3], [[3, 1], [4, 2]])
    logprob_M, _ = policy.scorer(Rows.of(rows, spans, [1.0] * 4, 0, "cpu", arrangement))
    seen, waiting = set[Any](), [logprob_M.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    assert not any(node.name() == "IndexBackward0" for node in seen)


def test_a_policy_packs_whole_rows_and_scores_the_same() -> None:
    policy = make_policy()
    rows, spans = random_rows([5, 30, 60, 200], [[9] * 8, [5] * 8, [20], [7]])
    padded = policy.score(rows, spans, [1.0] * len(rows), 2000)
    policy.model.set_attn_implementation(BY_POSITION)
    policy.scorer = TokenScorer(policy.model)
    policy.scorer.shares_prefixes = False
    batches = policy.plan(rows, spans, 2000).batches
    assert [len(batch.arrangement.packs) for batch in batches] == [1] * len(batches) and batches[0].arrangement.whole
    for one, other in zip(policy.score(rows, spans, [1.0] * len(rows), 2000), padded, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_a_policy_arranges_rows_and_scores_the_same(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    policy = make_policy()
    rows, spans = random_rows([50, 70, 60], [[9] * 8, [5] * 8, [7] * 8])
    monkeypatch.setattr(plans, "BATCH_OVERHEAD", 0)
    asked, forward = list[bool](), policy.scorer.forward

    def asking(rows: Rows, *options: Any) -> Any:
        asked.append((rows.packs if packed else rows.prefixes) is not None)
        return forward(rows, *options)

    monkeypatch.setattr(policy.scorer, "forward", asking)
    policy.scorer.packing = Packing(512, 256) if packed else None
    policy.scorer.shares_prefixes = not packed
    arranged = policy.score(rows, spans, [1.0] * len(rows), 300, with_entropy=True)
    assert len(asked) > 1 and all(asked)
    policy.scorer.shares_prefixes, policy.scorer.packing = False, None
    whole = policy.score(rows, spans, [1.0] * len(rows), 300, with_entropy=True)
    for one, other in zip(arranged, whole, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)


def test_gradient_checkpointing_shares_nothing_but_packs(tmp_path: Any) -> None:
    name = str(save_model("qwen2", tmp_path / "model"))
    for checkpointing in (False, True):
        settings = ModelConfig(model_name_or_path=name, gradient_checkpointing=checkpointing)
        scorer = load_policy(settings, train=True, device="cpu").scorer
        assert scorer.shares_prefixes is not checkpointing
        assert scorer.packing is not None


def test_a_model_in_bfloat16_shares_and_packs_too() -> None:
    scorer = TokenScorer(make_policy().model.bfloat16())
    assert scorer.shares_prefixes and scorer.packing


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
    scorer = TokenScorer(policy.model)
    assert not scorer.shares_prefixes and scorer.packing


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids", "failing"])
def test_a_model_that_does_not_heed_masks_and_positions_packs_nothing(
    monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    policy = make_policy()
    forward = policy.model.model.forward

    def other(*args: Any, **options: Any) -> Any:
        mask = options.get("attention_mask")
        if mask is not None and mask.ndim == 4:
            if ignored == "failing":
                raise ValueError("a mask of two dimensions, please")
            del options[ignored]
        return forward(*args, **options)

    monkeypatch.setattr(policy.model.model, "forward", other)
    scorer = TokenScorer(policy.model)
    assert scorer.packing is None and scorer.shares_prefixes


def test_attention_other_than_torchs_packs_by_positions_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    assert policy.scorer.packing == Packing(32, 16) and not policy.scorer.packs_whole
    policy.model.set_attn_implementation(BY_POSITION)
    scorer = TokenScorer(policy.model)
    assert scorer.packing is None and scorer.packs_whole
    forward = policy.model.model.forward
    monkeypatch.setattr(policy.model.model, "forward", lambda position_ids=None, **options: forward(**options))
    assert not scoring.packs_whole(scorer)
