"""`prepo_cli.evaluate`, the one call behind `prepo eval`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prepo_cli.config import sections_of, template_arguments, validated
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.startup import large_imports


def evaluate(
    model: str = "embedded",
    dataset: str = "embedded",
    *,
    split: str = "test",
    limit: int | None = None,
    k: int = 16,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_completion_length: int | None = None,
    max_prompt_length: int | None = None,
    batch_tokens: int | None = None,
    system_prompt: str | None = None,
    template_arg: Sequence[str] = (),
    reward: Sequence[str] = (),
    verdict: str | None = None,
    engine: str = "hf",
    dtype: str = "float32",
    seed: int = 0,
    output_dir: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    skip_bad_rows: bool = False,
    sets: Sequence[str] = (),
    overwrite: bool = False,
    break_lock: bool = False,
) -> dict[str, Any]:
    """Sample k answers to every prompt; returns the summary: avg@k, pass@j and maj@k with 95% intervals, and counts.

    The keywords are the flags of `prepo eval`, where `prepo eval --help` explains each; flags that may be repeated are
    lists here, and `sets` is `--set`. An interrupted evaluation is resumed by the same call, and a finished one read.

    Raises:
        UsageError: bad settings, data or output folder.
    """
    engine_settings: dict[str, Any] = {"name": engine, "vllm_gpu_memory_utilization": 0.9}
    if batch_tokens is not None:
        engine_settings["max_batch_tokens"] = batch_tokens
    rewards = {name: value for name, value in (("functions", list(reward)), ("verdict", verdict)) if value}
    settings: dict[str, Any] = {
        "model": {"model_name_or_path": model, "dtype": dtype},
        "dataset_name": dataset,
        "split": split,
        "limit": limit,
        "prompt_column": prompt_column,
        "answer_column": answer_column,
        "skip_bad_rows": skip_bad_rows,
        "system_prompt": system_prompt,
        "chat_template_kwargs": template_arguments(template_arg),
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "max_completion_length": max_completion_length,
        "max_prompt_length": max_prompt_length,
        "seed": seed,
        "output_dir": output_dir or f"evals/{_short(model)}-{_short(dataset)}",
        **sections_of(sets, engine=engine_settings, rewards=rewards),
    }
    config = validated(EvalConfig, settings)
    with large_imports():
        from prepo_cli.evaluation.session import run_evaluation

    return run_evaluation(config, overwrite=overwrite, break_lock=break_lock)


def _short(name: str) -> str:
    """The last part of a path or hub name that identifies it, as a folder name."""
    path = Path(name)
    last = path.parent.name if path.name == "final" and path.parent.name else path.name
    stem = Path(last).stem if path.is_file() else last
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "here"
