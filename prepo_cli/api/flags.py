"""What several functions share: flags that become whole sections of settings, and the default output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prepo_cli.config import sections_of

ALONE = {"vllm_gpu_memory_utilization": 0.9}
"""Nothing else uses the GPU while an engine only generates or scores."""


def engine_and_rewards(
    sets: Sequence[str], engine: str, batch_tokens: int | None, reward: Sequence[str], verdict: str | None
) -> dict[str, dict[str, Any]]:
    """The sections `engine` and `rewards` of a call that generates and judges; flags that are not given set nothing.

    >>> engine_and_rewards(["rewards.timeout_s=3"], "hf", None, ["exact"], None)["rewards"]
    {'functions': ['exact'], 'timeout_s': 3}
    """
    engine_settings: dict[str, Any] = {"name": engine, **ALONE}
    if batch_tokens is not None:
        engine_settings["max_batch_tokens"] = batch_tokens
    rewards = {name: value for name, value in (("functions", list(reward)), ("verdict", verdict)) if value}
    return sections_of(sets, engine=engine_settings, rewards=rewards)


def beside(dataset: str, column: str) -> Path:
    """<dataset>_<column> with the dataset's own suffix, or JSONL in the working folder."""
    path = Path(dataset)
    if path.is_file():
        ending = path.suffix if path.suffix in (".jsonl", ".parquet", ".csv") else ".jsonl"
        return path.with_name(f"{path.stem}_{column}{ending}")
    return Path(re.sub(r"[^\w.-]+", "_", path.name) + f"_{column}.jsonl")
