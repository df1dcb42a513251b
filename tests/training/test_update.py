"""The update's gradient against float64 autograd over single sequences, however the batch is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.config import resolve
from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.policy import Policy
from prepo_cli.training.learner import Learner
from prepo_cli.training.sample import Trainee
from prepo_cli.training.team import Team
from prepo_cli.training.update import Updater
from tests.models import VOCAB, make_policy

RNG = np.random.default_rng(5)


def make_batch(policy: Policy, on_policy: bool = True) -> list[Trainee]:
    batch = []
    for i in range(7):
        prompt, completion = int(RNG.integers(1, 9)), int(RNG.integers(1, 14))
        ids = RNG.integers(2, VOCAB, size=prompt + completion).tolist()
        factor = np.full(completion, 0.0 if i == 3 else RNG.normal()) * RNG.uniform(0.5, 2, completion)
        batch.append(Trainee(ids, prompt, float(RNG.uniform(0.5, 1.5)), factor, np.zeros(completion), i // 2))
    scores = policy.score([t.ids for t in batch], [t.span for t in batch], [t.temperature for t in batch], 999)
    for trainee, (logprobs, _) in zip(batch, scores, strict=True):
        trainee.engine_logprob_T = logprobs if on_policy else logprobs + RNG.normal(0, 0.3, len(logprobs))
    return batch


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
    return Updater(config.training, team, learner.options, exact)


def gradients(policy: Policy, batch: list[Trainee], **settings: object) -> tuple[dict[str, np.ndarray], dict]:
    taken = {}

    class Taking(torch.optim.SGD):
        def step(self, closure=None):
            taken.update({n: p.grad.numpy().copy() for n, p in policy.model.named_parameters() if p.grad is not None})
            return super().step(closure)

    updater = make_updater(policy, Taking(policy.model.parameters(), lr=0.0), **settings)
    updater.prepare(batch)
    metrics = updater.update(batch, 1e-30, 0)
    assert all(p.grad is None for p in policy.model.parameters()), "gradients take no memory between updates"
    return taken, metrics


def naive_gradients(policy: Policy, batch: list[Trainee], loss_type: str, length: int) -> dict[str, np.ndarray]:
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
        over = {"dapo": tokens, "grpo": len(batch) * len(terms), "dr_grpo": len(batch) * length}[loss_type]
        loss = loss + sum(terms) / over
    loss.backward()
    return {n: p.grad.numpy() for n, p in model.named_parameters()}


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("max_tokens", [1, 50, 10_000])
def test_gradient_does_not_depend_on_micro_batches(loss_type: str, max_tokens: int) -> None:
    policy = make_policy()
    batch = make_batch(policy)
    ours, metrics = gradients(
        policy, batch, loss_type=loss_type, max_tokens_per_micro_batch=max_tokens, max_completion_length=20
    )
    expected = naive_gradients(policy, batch, loss_type, 20)
    for name, gradient in expected.items():
        np.testing.assert_allclose(ours[name], gradient, atol=2e-5, rtol=2e-3, err_msg=name)
    norm = np.sqrt(sum((g**2).sum() for g in expected.values()))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert metrics["sampling/logp_difference_max"] < 1e-4


def test_mini_batches_step_once_each_and_use_old_log_probs() -> None:
    policy = make_policy()
    batch = make_batch(policy, on_policy=False)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    steps = 0

    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            nonlocal steps
            steps += 1
            return super().step(closure)

    optimizer = Counting(policy.model.parameters(), lr=0.01)
    updater = make_updater(policy, optimizer, mini_batch_prompts=2, num_iterations=2)
    updater.prepare(batch)
    assert all(t.old_logprob_T is t.engine_logprob_T for t in batch)
    metrics = updater.update(batch, 0.01, 0)
    assert steps == 2 * 2  # groups 0..3 in twos, twice
    assert metrics["clip_ratio/low"] + metrics["clip_ratio/high"] > 0
    assert any((p - before[n]).abs().max() > 0 for n, p in policy.model.named_parameters())


def test_inexact_engines_have_their_log_probs_taken_anew() -> None:
    policy = make_policy()
    batch = make_batch(policy, on_policy=False)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    updater = make_updater(policy, optimizer, exact=False, num_iterations=2)
    updater.prepare(batch)
    assert updater.team.tokens_scored == sum(len(t.ids) for t in batch)
    metrics = updater.update(batch, 1e-30, 0)
    assert metrics["clip_ratio/low"] == metrics["clip_ratio/high"] == 0
    assert metrics["sampling/logp_difference"] > 0.05


def test_reference_adds_kl_and_its_gradient() -> None:
    policy, reference = make_policy(), make_policy(seed=1)
    batch = make_batch(policy)
    for trainee in batch:
        trainee.factor_T = np.zeros_like(trainee.factor_T)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    updater = make_updater(policy, optimizer, reference, beta=0.5)
    updater.prepare(batch)
    metrics = updater.update(batch, 1e-30, 0)
    ours = policy.score([t.ids for t in batch], [t.span for t in batch], [t.temperature for t in batch], 999)
    theirs = reference.score([t.ids for t in batch], [t.span for t in batch], [t.temperature for t in batch], 999)
    gap = np.concatenate([r - o for (o, _), (r, _) in zip(ours, theirs, strict=True)]).astype(np.float64)
    assert metrics["kl"] == pytest.approx(float(np.mean(np.exp(gap) - gap - 1)), rel=1e-3)
    assert metrics["loss"] == pytest.approx(0.5 * metrics["kl"], rel=1e-3)
    assert metrics["grad_norm"] > 0
