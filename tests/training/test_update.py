"""The update's gradient against float64 autograd over single sequences, however the batch is cut; and what it logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.config import resolve
from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Rollout
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.policy import Policy
from prepo_cli.training.learner import Learner
from prepo_cli.training.rollouts import Sample
from prepo_cli.training.sample import TrainingSample, training_samples
from prepo_cli.training.team import Team
from prepo_cli.training.update import Updater
from strategies import Prompt
from tests.models import VOCAB, make_policy

RNG = np.random.default_rng(5)


def spans(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    return [(len(s.prompt_ids), len(s.prompt_ids) + s.num_tokens) for s in samples]


def scored(policy: Policy, samples: Sequence[Sample], with_entropy: bool = False) -> Any:
    rows = [s.prompt_ids + s.rollout.token_ids for s in samples]
    return policy.score(rows, spans(samples), [s.temperature for s in samples], 999, with_entropy)


def make_groups(policy: Policy, off_by: float = 0.0, count: int = 7, size: int = 2) -> list[list[Sample]]:
    """Groups of rollouts with random advantages, one of them 0; the engine's log-probs are off by about `off_by`."""
    samples = []
    for i in range(count):
        prompt, completion = (RNG.integers(2, VOCAB, size=RNG.integers(1, top)).tolist() for top in (9, 14))
        zeros = np.zeros(len(completion), dtype=np.float32)
        sample = Sample(Prompt(i // size, str(i // size)), prompt, Rollout(completion, zeros, None, False), "", 1.0)
        sample.temperature, sample.advantage = float(RNG.uniform(0.5, 1.5)), 0.0 if i == 3 else float(RNG.normal())
        samples.append(sample)
    for sample, (logprobs, _) in zip(samples, scored(policy, samples), strict=True):
        sample.rollout.logprobs[:] = logprobs + off_by * RNG.normal(size=len(logprobs))
    return [samples[start : start + size] for start in range(0, count, size)]


def make_updater(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    reference: Policy | None = None,
    exact: bool = True,
    **settings: Any,
) -> Updater:
    config = resolve(flags={f"training.{key}": value for key, value in {"max_grad_norm": 1e9, **settings}.items()})
    processes = Processes(config.training)
    layout = Replicated(policy, processes, config.training)
    layout.optimizer = optimizer
    learner = Learner(config, processes, policy, layout, HfEngine(policy, 999), reference)
    team = Team(processes, learner, config.training.max_tokens_per_micro_batch)
    return Updater(config.training, team, learner.options, exact, seed=3)


def still(policy: Policy) -> torch.optim.Optimizer:
    return torch.optim.SGD(policy.model.parameters(), lr=0.0)


def weighted(groups: list[list[Sample]], seed: int = 0) -> list[TrainingSample]:
    flat = [sample for group in groups for sample in group]
    shape = (len(flat), max(sample.num_tokens for sample in flat))
    return training_samples(groups, np.random.default_rng(seed).uniform(0.5, 2, shape))


def gradients(
    policy: Policy, groups: list[list[Sample]], **settings: object
) -> tuple[dict[str, np.ndarray], list[TrainingSample], dict[str, float]]:
    taken = {}

    class Taking(torch.optim.SGD):
        def step(self, closure=None):
            taken.update({n: p.grad.numpy().copy() for n, p in policy.model.named_parameters() if p.grad is not None})
            return super().step(closure)

    updater = make_updater(policy, Taking(policy.model.parameters(), lr=0.0), **settings)
    updater.prepare(groups, needs_entropy=False)
    batch = weighted(groups)
    stats = updater.update(batch, 1e-30, 0)
    assert all(p.grad is None for p in policy.model.parameters()), "gradients take no memory between updates"
    return taken, batch, stats.metrics()


def naive_gradients(
    policy: Policy, batch: list[TrainingSample], loss_type: str, length: int
) -> tuple[dict[str, np.ndarray], float]:
    """REINFORCE, one sequence at a time, float64."""
    model = type(policy.model)(policy.model.config).double()
    model.load_state_dict(policy.model.state_dict())
    tokens = sum(len(t.ids) - t.start for t in batch)
    loss = torch.zeros((), dtype=torch.float64)
    for t in batch:
        logits = model(input_ids=torch.tensor([t.ids])).logits[0] / t.temperature
        terms = [
            -factor * torch.log_softmax(logits[at - 1], -1)[t.ids[at]]
            for at, factor in zip(range(t.start, len(t.ids)), t.factor_T, strict=True)
        ]
        divisor = {"dapo": tokens, "grpo": len(batch) * len(terms), "dr_grpo": len(batch) * length}[loss_type]
        loss = loss + sum(terms) / divisor
    loss.backward()
    return {n: p.grad.numpy() for n, p in model.named_parameters()}, float(loss.detach())


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("max_tokens", [1, 50, 10_000])
def test_gradient_does_not_depend_on_micro_batches(loss_type: str, max_tokens: int) -> None:
    policy = make_policy()
    ours, batch, metrics = gradients(
        policy,
        make_groups(policy),
        loss_type=loss_type,
        max_tokens_per_micro_batch=max_tokens,
        max_completion_length=20,
    )
    expected, _ = naive_gradients(policy, batch, loss_type, 20)
    for name, gradient in expected.items():
        np.testing.assert_allclose(ours[name], gradient, atol=2e-5, rtol=2e-3, err_msg=name)
    norm = np.sqrt(sum((g**2).sum() for g in expected.values()))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert metrics["sampling/logp_difference_max"] < 1e-4


def test_mini_batches_step_once_each_and_use_old_log_probs() -> None:
    policy = make_policy()
    groups = make_groups(policy, off_by=0.3)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.01)
    updater = make_updater(policy, optimizer, mini_batch_prompts=2, num_iterations=2)
    updater.prepare(groups, needs_entropy=False)
    assert all(s.old_logprobs is s.rollout.logprobs for group in groups for s in group)
    assert updater.team.tokens_scored == 0
    stats = updater.update(weighted(groups), 0.01, 0)
    assert stats.optimizer_steps == 2 * 2  # groups 0..3 in twos, twice
    metrics = stats.metrics()
    assert metrics["clip_ratio/low"] + metrics["clip_ratio/high"] > 0
    assert any((p - before[n]).abs().max() > 0 for n, p in policy.model.named_parameters())


def test_inexact_engines_have_old_log_probs_recomputed() -> None:
    policy = make_policy()
    groups = make_groups(policy, off_by=0.3)
    updater = make_updater(policy, still(policy), exact=False, num_iterations=2)
    updater.prepare(groups, needs_entropy=False)
    assert updater.team.tokens_scored == sum(len(s.prompt_ids) + s.num_tokens for group in groups for s in group)
    metrics = updater.update(weighted(groups), 1e-30, 0).metrics()
    assert metrics["clip_ratio/low"] == metrics["clip_ratio/high"] == 0
    assert metrics["sampling/logp_difference"] > 0.05


def test_reference_adds_kl_and_its_gradient() -> None:
    policy, reference = make_policy(), make_policy(seed=1)
    groups = make_groups(policy)
    samples = [sample for group in groups for sample in group]
    for sample in samples:
        sample.advantage = 0.0
    updater = make_updater(policy, still(policy), reference, beta=0.5)
    updater.prepare(groups, needs_entropy=False)
    metrics = updater.update(weighted(groups), 1e-30, 0).metrics()
    pairs = zip(scored(policy, samples), scored(reference, samples), strict=True)
    gap = np.concatenate([r - o for (o, _), (r, _) in pairs]).astype(np.float64)
    assert metrics["kl"] == pytest.approx(float(np.mean(np.exp(gap) - gap - 1)), rel=1e-3)
    assert metrics["loss"] == pytest.approx(0.5 * metrics["kl"], rel=1e-3)
    assert metrics["grad_norm"] > 0


def test_a_mini_batch_without_gradient_dilutes_nothing() -> None:
    """A gap of 0.8 in the only mini-batch of four that has a gradient is logged as 0.8, not as 0.2."""
    policy = make_policy()
    groups = make_groups(policy, count=8)
    for sample in (sample for group in groups[1:] for sample in group):
        sample.advantage = 0.0
    for sample in groups[0]:
        sample.advantage = 1.0
        sample.rollout.logprobs[:] -= 0.8
    updater = make_updater(policy, still(policy), exact=False, mini_batch_prompts=1)
    updater.prepare(groups, needs_entropy=False)
    stats = updater.update(weighted(groups), 1e-30, 0)
    assert stats.optimizer_steps == 1
    assert stats.metrics()["sampling/logp_difference"] == pytest.approx(0.8, abs=1e-3)


def test_the_loss_is_the_whole_batchs_however_it_is_cut_into_mini_batches() -> None:
    policy = make_policy()
    groups = make_groups(policy)
    updater = make_updater(policy, still(policy), exact=False, mini_batch_prompts=1)
    updater.prepare(groups, needs_entropy=False)
    batch = weighted(groups)
    loss = updater.update(batch, 1e-30, 0).metrics()["loss"]
    tokens = sum(sample.num_tokens for sample in batch)
    assert loss == pytest.approx(-sum(float(sample.factor_T.sum()) for sample in batch) / tokens, abs=1e-5)


def test_no_gradient_no_step() -> None:
    policy = make_policy()
    groups = make_groups(policy)
    for sample in (sample for group in groups for sample in group):
        sample.advantage = 0.0
    stats = make_updater(policy, still(policy)).update(weighted(groups), 0.1, 0)
    assert (stats.optimizer_steps, stats.metrics()) == (0, {"loss": 0.0, "grad_norm": 0.0, "skipped_steps": 0})


def test_mini_batches_hold_every_group_once_in_an_order_of_their_own() -> None:
    """A selector's order, by perplexity say, does not decide which groups share a mini-batch."""
    policy = make_policy()
    batch = weighted(make_groups(policy, count=32))
    updater = make_updater(policy, still(policy), mini_batch_prompts=4)

    def cut(step: int) -> list[list[int]]:
        return [sorted({s.group for s in mini}) for mini in updater._mini_batches(batch, step, 0)]

    first = cut(0)
    assert sorted(group for mini in first for group in mini) == list(range(16))
    assert [len(mini) for mini in first] == [4] * 4
    assert first != [list(range(start, start + 4)) for start in range(0, 16, 4)]
    assert first == cut(0)
    assert first != cut(1)


@pytest.mark.parametrize(
    ("needs_entropy", "settings", "passes"),
    [
        (False, {}, 0),
        (True, {}, 1),
        (False, {"num_iterations": 2}, 1),
        (True, {"mini_batch_prompts": 1}, 1),
    ],
)
def test_an_engine_without_entropies_costs_at_most_one_pass_before_the_update(
    needs_entropy: bool, settings: dict[str, int], passes: int
) -> None:
    """vLLM gives none: a weighting that needs them, or old log-probs, cost a pass; else the update measures them."""
    policy = make_policy()
    groups = make_groups(policy, off_by=0.1)
    updater = make_updater(policy, still(policy), exact=False, **settings)
    updater.prepare(groups, needs_entropy)
    samples = [sample for group in groups for sample in group]
    tokens = sum(len(s.prompt_ids) + s.num_tokens for s in samples)
    assert updater.team.take_tokens_scored() == passes * tokens
    assert all((sample.entropies is not None) == bool(passes) for sample in samples)
    expected = scored(policy, samples, with_entropy=True)
    if passes:
        for sample, (_, entropies) in zip(samples, expected, strict=True):
            np.testing.assert_allclose(sample.entropies, entropies, atol=1e-5)
        return
    stats = updater.update(weighted(groups), 1e-30, 0, with_entropy=True)
    assert updater.team.take_tokens_scored() == 0
    passed = np.concatenate([e for s, (_, e) in zip(samples, expected, strict=True) if s.advantage])
    assert stats.mean_entropy == pytest.approx(float(passed.mean()), rel=1e-4)
