"""Trains by TRL, in this process or one of several, and writes down what it did."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import TrainerCallback

from prepo_cli.integrations.trl_roll import Roller
from tests.trl.worlds import FIGURES, NEUTRAL, lines, task, trainer, weights


@dataclass(frozen=True)
class Job:
    """What to do in `folder`; `strategies` None is plain TRL. After `die_after` steps, the process kills itself."""

    folder: str
    strategies: Any
    steps: int = 6
    die_after: int | None = None
    resume: bool = False
    settings: dict[str, Any] | None = None


class Die(TrainerCallback):
    """kill -9 after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(job: Job) -> None:
    """Train; chosen rows go to `rows-<rank>.jsonl`, figures, weights and the strategies' state to `rank-<rank>.pt`."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    strategies = NEUTRAL if job.strategies == "neutral" else job.strategies
    made = trainer(
        folder / "run",
        strategies,
        data=task(48),
        callbacks=[Die(job.die_after)] if job.die_after else [],
        max_steps=job.steps,
        **job.settings or {},
    )
    rank = made.accelerator.process_index
    roll = Roller.__call__

    def noted(self: Roller, prompts: Any, counts: Any, ctx: Any) -> Any:
        with (folder / f"rows-{rank}.jsonl").open("a") as file:
            file.write(json.dumps([ctx.step, ctx.round, [p.index for p in prompts], counts, ctx.temperature]) + "\n")
        return roll(self, prompts, counts, ctx)

    with patch.object(Roller, "__call__", noted):
        made.train(resume_from_checkpoint=job.resume or None)
    figures = lines(made, *FIGURES, "cost/rollouts_total", "cost/tokens_generated", "cost/tokens_scored")
    state = None if strategies is None else made.session.state_dict()
    torch.save({"figures": figures, "weights": weights(made), "state": state}, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        main(Job(**job))
