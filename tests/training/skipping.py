"""Updates with a loss that is bad in one of two processes, checked in both; started by test_skips.

Usage: torchrun --nproc_per_node 2 -m tests.training.skipping LAYOUT...
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from prepo_cli.config import resolve
from prepo_cli.distributed import build_layout
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.plans import PADDED
from prepo_cli.policy.tensors import full_state
from prepo_cli.training.learner import Learner
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.update_stats import UpdateStats
from tests.models import VOCAB, make_policy

RATE = 0.01


def state(learner: Learner) -> dict[str, torch.Tensor]:
    """Weights, moments and step counts of the whole model, in every process."""
    found = {name: weight.clone() for name, weight in full_state(learner.policy.model, keep=True).items()}
    for name, entry in learner.layout.optimizer_state(keep=True).items():
        found |= {f"{name} {key}": value.clone() for key, value in entry.items()}
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def build(name: str) -> Learner:
    kind, _, precision = name.partition("-")
    if kind.startswith("zero"):
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = kind.removeprefix("zero")
    config = resolve(sets=[f"training.fsdp={kind == 'sharded'}", f"training.mixed_precision={precision or 'no'}"])
    processes, policy = Processes(config.training), make_policy()
    return Learner(config, processes, policy, build_layout(policy, processes, config.training), HfEngine(policy, 99))


def step(learner: Learner, number: int, poisoned: bool = False) -> UpdateStats:
    """One update on this process's half of fixed samples; only the second process's may be poisoned."""
    rng = np.random.default_rng(number)
    samples = [
        TrainingSample(rng.integers(2, VOCAB, 9).tolist(), 4, 1.0, rng.normal(size=5), -rng.random(5), i)
        for i in range(8)
    ]
    if poisoned:
        samples[1].factor_T[:] = np.inf
    share = samples[learner.processes.index :: 2]
    return learner.step([(share[:1], PADDED), (share[1:], PADDED)], 10.0, RATE, number, with_entropy=False)


def check(name: str) -> None:
    learner, control = build(name), build(name)
    for each in (learner, control):
        step(each, 0)
    before = state(learner)
    stats, counted = step(learner, 1, poisoned=True), int(learner.processes.is_main)
    assert (stats.skipped_steps, stats.optimizer_steps, len(stats.skipped)) == (counted, 0, 4), name
    assert equal(state(learner), before), f"{name}: the skipped update changed something"
    for each in (learner, control):
        stats = step(each, 2)
        assert (stats.skipped_steps, stats.optimizer_steps, stats.broken_weights) == (0, counted, False), name
    after = state(learner)
    assert equal(after, state(control)), f"{name}: the skipped update left a trace"
    assert not equal(after, before), name
    gathered: list[Any] = [None, None]
    dist.all_gather_object(gathered, after)
    assert equal(*gathered), f"{name}: the processes differ"
    if counted:
        print(f"{name} ok", flush=True)


if __name__ == "__main__":
    for layout in sys.argv[1:]:
        check(layout)
    dist.destroy_process_group()
