"""`prepo_cli.score_ppl`, the one call behind `prepo score-ppl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prepo_cli.api.flags import ALONE, beside
from prepo_cli.config import sections_of, template_arguments
from prepo_cli.evaluation.settings import ScoringConfig
from prepo_cli.models import run_named
from prepo_cli.startup import large_imports
from prepo_cli.validation import validated


def score_ppl(
    dataset: str,
    model: str = "embedded",
    *,
    revision: str | None = None,
    output: Path | str | None = None,
    split: str = "train",
    limit: int | None = None,
    scope: str = "question",
    system_prompt: str | None = None,
    template_arg: Sequence[str] = (),
    max_prompt_length: int | None = None,
    batch_tokens: int = 16384,
    dtype: str = "float32",
    engine: str = "hf",
    sets: Sequence[str] = (),
    prompt_column: str | None = None,
    skip_bad_rows: bool = False,
    plot: Path | str | None = None,
    overwrite: bool = False,
    break_lock: bool = False,
) -> dict[str, Any]:
    """Write the dataset with the perplexity of every prompt; returns the report: distribution, deciles and counts.

    The keyword arguments are the flags of `prepo score-ppl` (see `prepo score-ppl --help`); repeatable flags are lists
    here, and `sets` is `--set`. The same call resumes an interrupted scoring.

    Raises:
        UsageError: bad settings, data or output.
    """
    settings: dict[str, Any] = {
        "model": {"model_name_or_path": run_named(model), "revision": revision, "dtype": dtype},
        "dataset_name": dataset,
        "split": split,
        "limit": limit,
        "prompt_column": prompt_column,
        "skip_bad_rows": skip_bad_rows,
        "system_prompt": system_prompt,
        "chat_template_kwargs": template_arguments(template_arg),
        "scope": scope,
        "max_prompt_length": max_prompt_length,
        "batch_tokens": batch_tokens,
        "engine": sections_of(sets, engine={"name": engine, **ALONE})["engine"],
        "output": output or beside(dataset, "ppl"),
    }
    config = validated(ScoringConfig, settings)
    if plot is not None:
        from prepo_cli.reporting.figures import refuse_plot

        refuse_plot(Path(plot), overwrite)
    from prepo_cli.evaluation.output import PPL_CONTEXT, refuse_output

    refuse_output(config.output, dataset, PPL_CONTEXT, overwrite=overwrite)
    with large_imports():
        from prepo_cli.evaluation.ppl_scoring import score_dataset

    report, ppl_N = score_dataset(config, overwrite=overwrite, break_lock=break_lock)
    if plot is not None:
        from prepo_cli.reporting.figures import perplexity_histogram

        perplexity_histogram(ppl_N, Path(plot), f"{dataset}, {model}")
    return report
