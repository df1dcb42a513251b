"""What the recipe `prepo` adds to a training step: scoring five times as many prompts, and the rollouts' weights.

The embedded model on its own task with its default sizes: 160 candidates, 32 prompts with 8 rollouts of at most 96
tokens in each step. `random` is the selector of that name with uniform weights. `prepo` scores the same candidates,
sorts them and weights rollouts by entropy, but rolls out the prompts that `random` chooses: prompts differ in how long
their answers are, and the schedule's own would be compared with other work. Rewards are 0 and 1 in turn, so that every
rollout has an advantage and is trained on, and the learning rate is next to nothing, so that the rollouts of both are
the same in every step. The variants take turns, step by step. `prepo, own prompts` is the recipe as it is.

    python -m benchmarks --only schedule
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.against_trl import ONLY_STEPS, in_turn, take_turns
from benchmarks.paired import Claim, Found
from benchmarks.turns import Turn
from prepo_cli.config import resolve
from prepo_cli.training.train import train
from strategies.selectors.ppl import PplSchedule
from strategies.selectors.random import Random
from strategies.types import Prompt, PromptSource, RunInfo, StepContext

CLAIMS = (
    Claim("recipe prepo: time per step against random", "prepo", "random", limit=1.05),
    Claim("recipe prepo on its own prompts: time per step against random", "prepo, own prompts", "random"),
)
SIZES: dict[str, dict[str, Any]] = {
    "full": {"prompts": 32},
    "quick": {"prompts": 16},
}
VARIANTS = {
    "random": {"recipe": "random"},
    "prepo": {
        "strategies.selector": f"{__name__}:ScheduleThenRandom",
        "strategies.weighting": "rel-entropy",
    },
    "prepo, own prompts": {"recipe": "prepo"},
}


class ScheduleThenRandom(PplSchedule):
    """Does the schedule's work, then chooses what `random` would."""

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.random = Random(Random.Params(ratio=params.ratio), run)

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        super().select(n, _Given(candidates), ctx)
        return self.random.select(n, _Given(candidates), ctx)


class _Given:
    """Hands out the same candidates to whoever asks."""

    def __init__(self, candidates: list[Prompt]) -> None:
        self.candidates = candidates

    def take(self, m: int) -> list[Prompt]:
        return self.candidates[:m]


def steps(variant: str, turn: Turn, rounds: int, prompts: int) -> list[Found]:
    """Seconds of each step and of its phase `select`, after a first step that does not count."""
    take_turns(turn)
    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        lines = run(variant, Path(folder) / "run", prompts, 1 + rounds)
    return [{"seconds": line["timing_s/step"], "select": line["timing_s/select"]} for line in lines[1:]]


def run(variant: str, folder: Path, prompts: int, steps: int) -> list[dict[str, Any]]:
    """Train with a variant's strategies; returns the metrics of each step."""
    flags = (
        VARIANTS[variant]
        | ONLY_STEPS
        | {
            "training.prompts_per_step": prompts,
            "training.total_steps": steps,
            "training.learning_rate": 1e-12,
            "rewards.functions": [f"{in_turn.__module__}:{in_turn.__name__}"],
            "output_dir": str(folder),
        }
    )
    train(resolve(flags=flags))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
