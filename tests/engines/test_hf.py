"""The decode loop against `model.generate`, exact probabilities and float64 scores of single sequences."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from prepo_cli.engines.base import Request, Rollout
from prepo_cli.engines.hf import HfEngine
from strategies.types import derive_seed
from tests.models import CONFIGS, VOCAB, make_policy, naive_scores

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 3, 4], [4], [7, 7, 7, 2, 9]]


def requests(n: int, temperature: float = 1.0, max_tokens: int = 12, top_p: float = 1.0) -> list[Request]:
    return [
        Request(prompt, [derive_seed("t", i, j) for j in range(n)], temperature, max_tokens, top_p)
        for i, prompt in enumerate(PROMPTS)
    ]


def tokens(groups: list[list[Rollout]]) -> list[list[list[int]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_equals_generate(architecture: str) -> None:
    policy = make_policy(architecture)
    ours = HfEngine(policy, 10_000).generate(requests(1, temperature=0.0, max_tokens=20))
    for prompt, group in zip(PROMPTS, ours, strict=True):
        output = policy.model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=20, eos_token_id=1, pad_token_id=0
        )
        assert group[0].token_ids == output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_scores_equal_single_sequence_float64(architecture: str, temperature: float) -> None:
    policy = make_policy(architecture)
    groups = HfEngine(policy, 10_000).generate(requests(3, temperature))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for rollout in group:
            ids = prompt + rollout.token_ids
            logprobs, entropies = naive_scores(policy.model, ids, len(prompt), len(ids), temperature)
            np.testing.assert_allclose(rollout.logprobs, logprobs, atol=2e-5)
            np.testing.assert_allclose(rollout.entropies, entropies, atol=2e-5)


def test_a_rollout_depends_on_its_seed_alone() -> None:
    policy = make_policy()
    together = tokens(HfEngine(policy, 10_000).generate(requests(4)))
    small_waves = tokens(HfEngine(policy, 60).generate(requests(4)))
    alone = [
        [
            HfEngine(policy, 10_000).generate([Request(r.prompt_ids, [seed], 1.0, 12)])[0][0].token_ids
            for seed in r.seeds
        ]
        for r in requests(4)
    ]
    backwards = tokens(HfEngine(policy, 10_000).generate(requests(4)[::-1]))[::-1]
    assert together == small_waves == alone == backwards


def test_two_tokens_follow_the_exact_joint_distribution_as_generate_does() -> None:
    policy = make_policy(eos=(1,), spread=0.8)
    draws, prompt = 6_000, PROMPTS[0]
    with torch.no_grad():
        first = torch.softmax(policy.model(torch.tensor([prompt])).logits[0, -1].double(), -1)
        exact = {(1,): first[1].item()}
        for a in range(VOCAB):
            if a != 1:
                second = torch.softmax(policy.model(torch.tensor([[*prompt, a]])).logits[0, -1].double(), -1)
                exact |= {(a, b): (first[a] * second[b]).item() for b in range(VOCAB)}
    ours = HfEngine(policy, 100_000).generate([Request(prompt, list(range(draws)), 1.0, 2)])[0]
    torch.manual_seed(0)
    theirs = policy.model.generate(
        torch.tensor([prompt]).expand(draws, -1),
        do_sample=True, top_k=0, max_new_tokens=2, eos_token_id=1, pad_token_id=0,
    )[:, len(prompt) :].tolist()  # fmt: skip
    for observed in (
        Counter(tuple(r.token_ids) for r in ours),
        Counter((1,) if row[0] == 1 else tuple(row) for row in theirs),
    ):
        common = [key for key, p in exact.items() if p * draws >= 10]
        counts = [observed[key] for key in common] + [draws - sum(observed[key] for key in common)]
        expected = [exact[key] * draws for key in common] + [draws - sum(exact[key] * draws for key in common)]
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_each_request_has_its_own_temperature_length_and_number() -> None:
    policy = make_policy(eos=())
    mixed = [
        Request(PROMPTS[0], [1, 2, 3], 1.0, 7),
        Request(PROMPTS[1], [4], 0.0, 3),
        Request(PROMPTS[2], [5, 6], 2.0, 11),
    ]
    together = tokens(HfEngine(policy, 10_000).generate(mixed))
    alone = [tokens(HfEngine(policy, 10_000).generate([request]))[0] for request in mixed]
    assert together == alone
    assert [[len(ids) for ids in group] for group in together] == [[7] * 3, [3], [11] * 2]


def test_rollouts_end_with_any_end_token_and_only_there() -> None:
    ends = (1, 4, 9)
    groups = HfEngine(make_policy(eos=ends), 10_000).generate(requests(16, max_tokens=15))
    rollouts = list(itertools.chain(*groups))
    assert any(r.truncated for r in rollouts) and any(not r.truncated for r in rollouts)
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1]) & set(ends)
        assert rollout.truncated == (rollout.token_ids[-1] not in ends)
        assert len(rollout.token_ids) == len(rollout.logprobs) == len(rollout.entropies)
        assert not rollout.truncated or len(rollout.token_ids) == 15


def test_every_rollout_is_handed_over_once() -> None:
    seen: dict[tuple[int, int], list[int]] = {}

    def finished(request: int, number: int, rollout: Rollout) -> None:
        assert (request, number) not in seen
        seen[request, number] = rollout.token_ids

    groups = HfEngine(make_policy(), 60).generate(requests(5), finished)
    assert seen == {(r, n): rollout.token_ids for r, group in enumerate(groups) for n, rollout in enumerate(group)}
