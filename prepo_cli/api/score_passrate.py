"""`prepo_cli.score_passrate`, the one call behind `prepo score-passrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prepo_cli.api.flags import beside, engine_and_rewards
from prepo_cli.config import template_arguments
from prepo_cli.evaluation.settings import PassRateConfig
from prepo_cli.models import run_named
from prepo_cli.startup import large_imports
from prepo_cli.validation import validated


def score_passrate(
    dataset: str,
    k: int = 8,
    model: str = "embedded",
    *,
    revision: str | None = None,
    output: Path | str | None = None,
    split: str = "train",
    limit: int | None = None,
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
    prompt_column: str | None = None,
    answer_column: str | None = None,
    skip_bad_rows: bool = False,
    sets: Sequence[str] = (),
    plot: Path | str | None = None,
    overwrite: bool = False,
    break_lock: bool = False,
) -> dict[str, Any]:
    """Write the dataset with the pass rate of every prompt; returns the report: mean, deciles, intervals and counts.

    The keywords are the flags of `prepo score-passrate`, where `prepo score-passrate --help` explains each; flags that
    may be repeated are lists here, and `sets` is `--set`. An interrupted scoring is resumed by the same call.

    Raises:
        UsageError: bad settings, data or output.
    """
    settings: dict[str, Any] = {
        "model": {"model_name_or_path": run_named(model), "revision": revision, "dtype": dtype},
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
        "output": output or beside(dataset, "passrate"),
        **engine_and_rewards(sets, engine, batch_tokens, reward, verdict),
    }
    config = validated(PassRateConfig, settings)
    if plot is not None:
        from prepo_cli.reporting.figures import refuse_plot

        refuse_plot(Path(plot), overwrite)
    from prepo_cli.evaluation.output import PASS_CONTEXT, refuse_output

    refuse_output(config.output, dataset, PASS_CONTEXT, overwrite=overwrite)
    with large_imports():
        from prepo_cli.evaluation.passrate_scoring import score_pass_rates

    report = score_pass_rates(config, overwrite=overwrite, break_lock=break_lock)
    if plot is not None:
        from prepo_cli.reporting.pass_rates import pass_rate_figure

        pass_rate_figure(report, Path(plot), f"{dataset}, {model}")
    return report
