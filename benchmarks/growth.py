"""How a training step grows: with its rollouts, their length, the vocabulary, and over processes; one at a time.

A small Qwen2 with random weights generates and is updated, after a warm-up with a few tokens; of short steps, the
fastest of three counts. No token ends a completion, so each has exactly the stated length. Every point is measured in a
process of its own; those of the axis `processes` are started by torchrun, with one thread each. Memory is what the step
needs beyond what there was before it, at its peak, in one process.

    python -m benchmarks --only growth
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.paired import ROOT, Found, Note, in_own_processes, peak
from prepo_cli.config import resolve
from prepo_cli.distributed import build_layout
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.machine import keep_freed_memory
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.sections import TrainingConfig
from prepo_cli.training.learner import Learner
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.team import Team
from strategies.types import derive_seed

AXES: dict[str, tuple[int, ...]] = {
    "rollouts": tuple(2**n for n in range(6, 13)),
    "tokens": tuple(2**n for n in range(6, 13)),
    "vocabulary": tuple(2**n for n in range(10, 19)),
    "processes": (1, 2),
}
MEASURED = ("generate", "update", "seconds", "bytes")
SIZES: dict[str, dict[str, Any]] = {"full": {}}
SHAPE = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
GROUP, PROMPT = 8, 8
"""Rollouts of a prompt, and its tokens."""
RUNS, ENOUGH = 3, 2.0
"""A point is the fastest of so many steps, fewer if they take that many seconds."""
Points = dict[str, dict[str, list[float]]]
"""What was measured by axis and by what it is: as many values as the axis has in `AXES`."""


@dataclass(frozen=True)
class Work:
    """A step; `tokens` is the length of every completion."""

    rollouts: int = 64
    tokens: int = 16
    vocabulary: int = 1024
    processes: int = 1


STARTS = {"tokens": Work(rollouts=8), "processes": Work(rollouts=2048, tokens=64)}
"""What the other axes are set to while one grows, where these aren't the usual values."""


def points(note: Note = print) -> Points:
    """Measure all points."""
    found = iter(in_own_processes("growth", "full", [f"{axis} {at}" for axis in AXES for at in AXES[axis]], note))
    by_axis = {axis: [next(found) for _ in places] for axis, places in AXES.items()}
    return {axis: {key: [f[key] for f in measured] for key in MEASURED} for axis, measured in by_axis.items()}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent with which y grows with x: log y fitted to log x by least squares, over the upper half of points.

    >>> round(slope([1, 2, 4, 8], [5, 5, 4, 16]), 2)
    2.0
    """
    start = min(len(x) // 2, len(x) - 2)
    log_x, log_y = ([log(value) for value in values[start:]] for values in (x, y))
    return float(np.polyfit(log_x, log_y, 1)[0])


def measure(variant: str) -> Found:
    """Seconds of generating, of the update and of both, and bytes of memory, at one point of an axis."""
    axis, _, value = variant.partition(" ")
    work = replace(STARTS.get(axis, Work()), **{axis: int(value)})
    if axis != "processes":
        return step(work)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", value]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, "-m", "benchmarks.growth", value],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def step(work: Work) -> Found:
    """One step; nothing on processes other than the main one."""
    config = resolve(flags={"training.learning_rate": 1e-6})
    processes = Processes(config.training)
    keep_freed_memory()  # as for any policy that is loaded
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=work.vocabulary, **SHAPE))
    no_token = frozenset({work.vocabulary})
    policy = Policy(model, None, TokenScorer(model), torch.device("cpu"), no_token, 0)  # type: ignore[arg-type]
    layout = build_layout(policy, processes, config.training)
    learner = Learner(config, processes, policy, layout, HfEngine(policy))
    found: Found = {}
    if processes.is_main:
        with processes.controlling():
            # A default for any model; `config` has the embedded one's.
            team = Team(processes, learner, TrainingConfig().max_tokens_per_micro_batch)
            _step(team, replace(work, rollouts=GROUP, tokens=2))
            runs: list[Found] = []
            with peak() as bytes_above:
                while len(runs) < RUNS and sum(run["seconds"] for run in runs) < ENOUGH:
                    runs.append(_step(team, work))
            found = min(runs, key=lambda run: run["seconds"]) | {"bytes": bytes_above[0]}
    else:
        processes.serve(learner)
    processes.leave(learner.engine.close)
    return found


def _step(team: Team, work: Work) -> Found:
    rng = np.random.default_rng(0)
    requests = [
        Request(
            rng.integers(1, work.vocabulary, PROMPT).tolist(),
            [derive_seed(0, group, k) for k in range(GROUP)],
            temperature=1.0,
            max_tokens=work.tokens,
        )
        for group in range(work.rollouts // GROUP)
    ]
    started = perf_counter()
    generated = team.generate(requests)
    between = perf_counter()
    unknown, advantage = np.zeros(work.tokens, dtype=np.float32), np.ones(work.tokens)
    samples = [
        TrainingSample([*request.prompt_ids, *rollout.token_ids], PROMPT, 1.0, advantage * (-1) ** k, unknown, group)
        for group, (request, rollouts) in enumerate(zip(requests, generated, strict=True))
        for k, rollout in enumerate(rollouts)
    ]
    team.step(samples, float(work.rollouts * work.tokens), 1e-6, 0, False)
    ended = perf_counter()
    assert all(len(sample.ids) == PROMPT + work.tokens for sample in samples)
    return {"generate": between - started, "update": ended - between, "seconds": ended - started}


def main() -> None:
    """Measure the axis `processes`, in one of them."""
    work = replace(STARTS["processes"], processes=int(sys.argv[1]))
    if found := step(work):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
