"""`prepo_cli.evaluate`, the one call behind `prepo eval`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prepo_cli.api.flags import engine_and_rewards
from prepo_cli.config import template_arguments
from prepo_cli.evaluation.run_settings import resolve_evaluations
from prepo_cli.models import run_named
from prepo_cli.startup import large_imports


def evaluate(
    model: str = "embedded",
    dataset: str | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    k: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_completion_length: int | None = None,
    max_prompt_length: int | None = None,
    batch_tokens: int | None = None,
    system_prompt: str | None = None,
    template_arg: Sequence[str] = (),
    reward: Sequence[str] = (),
    verdict: str | None = None,
    engine: str = "hf",
    dtype: str | None = None,
    seed: int | None = None,
    output_dir: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    skip_bad_rows: bool = False,
    sets: Sequence[str] = (),
    overwrite: bool = False,
    break_lock: bool = False,
) -> dict[str, Any]:
    """Sample k answers per prompt; returns the summary: avg@k, pass@j and maj@k with 95% intervals, and counts.

    For several datasets, separated by commas, it returns their summaries by name under `datasets`, and their means.

    The keyword arguments are the flags of `prepo eval` (see `prepo eval --help`); repeatable flags are lists here, and
    `sets` is `--set`. The same call resumes an interrupted evaluation and returns the result of a finished one.

    Raises:
        UsageError: bad settings, data or output folder.
    """
    settings: dict[str, Any] = {
        "model": {"model_name_or_path": run_named(model), "dtype": dtype},
        "dataset_name": dataset,
        "split": split,
        "limit": limit,
        "prompt_column": prompt_column,
        "answer_column": answer_column,
        "skip_bad_rows": skip_bad_rows or None,
        "system_prompt": system_prompt,
        "chat_template_kwargs": template_arguments(template_arg),
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "max_completion_length": max_completion_length,
        "max_prompt_length": max_prompt_length,
        "seed": seed,
        "output_dir": output_dir,
        **engine_and_rewards(sets, engine, batch_tokens, reward, verdict),
    }
    configs = resolve_evaluations(settings)
    with large_imports():
        from prepo_cli.evaluation.results import joined_summaries
        from prepo_cli.evaluation.session import run_evaluations

    summaries = run_evaluations(configs, overwrite=overwrite, break_lock=break_lock)
    return summaries[0] if len(summaries) == 1 else joined_summaries(summaries)
