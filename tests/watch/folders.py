"""Run folders as `prepo train` writes them, with numbers made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.config import resolve
from prepo_cli.reporting.run_folder import RunFolder


def started(path: Path, **settings: Any) -> RunFolder:
    """A run of 50 steps that has taken none."""
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    folder.begin(resolve(flags={"seed": 3, "training.total_steps": 50} | settings), resume=False)
    return folder


def metrics(step: int) -> dict[str, Any]:
    """Each step takes half a second for 8 rollouts, and 100 tokens that are generated and 20 that are scored."""
    return {
        "step": step,
        "reward": step / 100,
        "frac_reward_zero_std": 0.25,
        "cost/rollouts_total": 8 * (step + 1),
        "cost/tokens_generated": 100 * (step + 1),
        "cost/tokens_scored": 20 * (step + 1),
        "cost/seconds": 0.5 * (step + 1),
    }


def train(folder: RunFolder, first: int, last: int) -> None:
    """Take steps `first` to `last` - 1, with an evaluation after each tenth."""
    with folder.metrics.open("a") as file:
        file.writelines(json.dumps(metrics(step)) + "\n" for step in range(first, last))
    for step in range(first, last):
        if step % 10 == 9:
            folder.append_evaluation({"step": step + 1, "avg@4": {"value": 0.5, "low": 0.4, "high": step / 100 + 0.5}})


def roll_out(folder: RunFolder, step: int, *texts: str) -> None:
    columns = {
        "prompt": [f"What is {i} + {i}?" for i in range(len(texts))],
        "text": list(texts),
        "reward": [float(i % 2) for i in range(len(texts))],
        "correct": [bool(i % 2) for i in range(len(texts))],
    }
    pq.write_table(pa.table(columns), folder.rollouts / f"step_{step:06d}.parquet")


def finish(folder: RunFolder, steps: int) -> None:
    folder.summary.write_text(json.dumps({"steps": steps, "strategies": {}}))
