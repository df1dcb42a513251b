"""What the output matrix is told of the loss's gradient is what autograd computes from the whole batch, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prepo_cli.losses import LOSSES
from prepo_cli.policy import output_matrix
from prepo_cli.policy.rows import Rows
from prepo_cli.training.batch_loss import BatchLoss
from prepo_cli.training.loss import LossOptions
from prepo_cli.training.sample import MicroBatch
from tests.models import make_policy
from tests.training.test_mismatch import MODES
from tests.training.test_update import make_groups, make_updater, still, weighted

LENGTHS = [3, 1, 7, 4]
COUNT = sum(LENGTHS)


def make_loss(options: LossOptions, mode: str, with_old: bool) -> BatchLoss:
    torch.manual_seed(1)
    random = [-torch.rand(COUNT) * 3 for _ in range(4)]
    nothing = torch.zeros(0)
    batch = MicroBatch(
        rows=Rows(nothing, nothing, nothing, nothing, LENGTHS),
        sequence_M=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)),
        factor_M=torch.randn(COUNT),
        engine_M=random[0],
        old_M=random[1] if with_old else None,
        reference_M=random[2] if options.beta else None,
    )
    return BatchLoss(batch, options, mode, 2.0, factor=2 / 7)


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("with_old", [False, True])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_gradient_of_a_part_is_the_whole_batchs(
    loss_type: str, mode: str, level: str, beta: float, with_old: bool, size: int
) -> None:
    options = LossOptions(loss_type, beta=beta, importance_sampling_level=level, max_completion_length=9)
    losses = make_loss(options, mode, with_old)
    logprob_M = (-torch.rand(COUNT) * 3).requires_grad_()
    result, _ = losses.tokens(logprob_M)
    (losses.sum(result.loss_M) * losses.factor).backward()
    if level == "sequence" or mode.startswith("sequence"):
        assert losses.upstream is None
        return
    assert losses.upstream is not None
    parts = [slice(start, start + size) for start in range(0, COUNT, size)]
    told_M = torch.cat([losses.upstream(logprob_M.detach()[part], part) for part in parts])
    assert torch.equal(told_M, logprob_M.grad)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 1),
        ({"loss_type": "grpo"}, 1),
        ({"loss_type": "dr_grpo", "num_iterations": 2}, 2),
        ({"importance_sampling_level": "sequence"}, 2),
    ],
    ids=str,
)
def test_each_optimizer_step_computes_logits_once(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], passes: int
) -> None:
    """Ratios of sequences need them twice."""
    policy = make_policy()
    groups = make_groups(policy)
    updater = make_updater(policy, still(policy), **settings)
    updater.prepare(groups, needs_entropy=False)
    made, logits = list[int](), output_matrix._logits

    def counted(*inputs: Any) -> Any:
        made.append(1)
        return logits(*inputs)

    monkeypatch.setattr(output_matrix, "_logits", counted)
    assert updater.update(weighted(groups), 1e-30, 0).optimizer_steps == settings.get("num_iterations", 1)
    assert len(made) == passes
