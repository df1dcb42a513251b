"""Sample k completions of every prompt, and write how many are correct beside the dataset's own columns.

The seeds of a prompt's completions are those of `prepo eval`: they derive from the seed, the prompt's id and the
completion's number, so an interrupted and resumed scoring writes the same file as an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prepo_cli.data.loading import load_configured_prompts
from prepo_cli.engines.base import Progress
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.added_columns import AddedColumns
from prepo_cli.evaluation.evaluator import Evaluator
from prepo_cli.evaluation.output import claimed
from prepo_cli.evaluation.pass_rates import by_perplexity, distribution
from prepo_cli.evaluation.score_context import PassRateContext
from prepo_cli.evaluation.session import prepare
from prepo_cli.evaluation.settings import GREEDY, PassRateConfig, fingerprint
from prepo_cli.policy.loading import model_source
from prepo_cli.rewards.judge import Judge
from prepo_cli.statistics import wilson
from prepo_cli.terminal import say
from strategies.types import Prompt

SCHEMA = pa.schema(
    [
        ("pass_rate", pa.float64()),
        ("pass_rate_low", pa.float64()),
        ("pass_rate_high", pa.float64()),
        ("pass_k", pa.int64()),
        ("pass_length", pa.float64()),
        (PassRateContext.column, pa.string()),
    ]
)
COUNTS = b"prepo"


def score_pass_rates(config: PassRateConfig, *, overwrite: bool = False, break_lock: bool = False) -> dict[str, Any]:
    """Write the dataset with the columns of `SCHEMA`; returns a report in plain types.

    Prompts that are too long get no pass rate and `pass_k` 0. `pass_rate_low` and `pass_rate_high` are the ends of the
    95% Wilson interval, `pass_length` is the mean number of completion tokens, and `pass_context` says how it was done.

    Raises:
        UsageError: bad settings, data or output; KeyboardInterrupt: finished chunks are kept.
    """
    column = PassRateContext.column
    with claimed(config.output, config.dataset_name, column, overwrite=overwrite, break_lock=break_lock):
        return _score(config)


def _score(config: PassRateConfig) -> dict[str, Any]:
    with Judge(config.rewards) as judge:
        dataset = load_configured_prompts(config, answer_column=config.answer_column, need_answer=judge.needs_answers)
        say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
        if config.temperature == 0:
            say(GREEDY)
        mark = fingerprint(config, model_source(config.model.model_name_or_path), dataset)
        sync_dir = config.output.with_name(config.output.name + ".sync")
        config, evaluator, engine = prepare(config, dataset, judge, sync_dir)
        context = PassRateContext.of(
            config.model,
            evaluator.prompts.renderer,
            temperature=config.temperature,
            top_p=config.top_p,
            max_completion_length=config.max_completion_length,
            verdict=config.rewards.verdict_function,
        )
        try:
            added = AddedColumns(dataset, config.output, mark, evaluator.chunks)
            columns = partial(_columns, evaluator, context.to_json())
            rows, seconds = added.compute(evaluator.render, columns, "rollouts", config.k)
        finally:
            engine.close()
    report = {"output": str(config.output), "context": asdict(context), "skipped_rows": dataset.skipped}
    report |= _report(added, config)
    added.write()
    return report | {"seconds": seconds, "prompts_per_second": rows / max(seconds, 1e-9)}


def _columns(
    evaluator: Evaluator, context: str, rows: range, prompts: Sequence[Prompt | None], advance: Progress
) -> pa.Table:
    """The new columns of some rows; counts that are of no single row are kept as metadata."""
    result, k = evaluator.evaluate_prompts(prompts, advance), evaluator.sampling.k
    asked = np.array([prompt is not None for prompt in prompts])
    right_P = result.correct_PK.sum(axis=1)
    measured = [right_P / k, *wilson(right_P, k), np.full(len(right_P), k), result.lengths_PK.mean(axis=1)]
    counts = {"truncated": int(result.truncated_PK.sum()), "timeouts": result.timeouts, "errors": result.errors}
    arrays = []
    for field, values_P in zip(SCHEMA, measured, strict=False):
        values = np.zeros(len(rows), dtype=values_P.dtype)
        values[asked] = values_P
        arrays.append(pa.array(values, field.type, mask=None if field.name == "pass_k" else ~asked))
    arrays.append(pa.array([context] * len(rows)))
    return pa.table(arrays, schema=SCHEMA.with_metadata({COUNTS: json.dumps(counts).encode()}))


def _report(added: AddedColumns, config: PassRateConfig) -> dict[str, Any]:
    """Distribution, lengths, counts and costs over all chunks.

    Raises:
        UsageError: no prompt was answered.
    """
    prompts_C = np.zeros(config.k + 1, dtype=np.int64)
    totals = {"truncated": 0, "timeouts": 0, "errors": 0}
    tokens = 0.0
    for part in added.parts(["pass_rate", "pass_length"]):
        right = pc.multiply(part["pass_rate"].drop_null(), config.k).to_numpy()
        prompts_C += np.bincount(np.rint(right).astype(np.int64), minlength=config.k + 1)
        tokens += config.k * (pc.sum(part["pass_length"]).as_py() or 0.0)
        for name, count in json.loads(part.schema.metadata[COUNTS]).items():
            totals[name] += count
    scored = int(prompts_C.sum())
    if not scored:
        raise UsageError(
            f"all {len(added.dataset):,} prompts are longer than {config.max_prompt_length} tokens; "
            "raise --max-prompt-length or lower --max-completion-length"
        )
    rollouts = scored * config.k
    return {
        "prompts": len(added.dataset),
        "scored": scored,
        "k": config.k,
        "rollouts": rollouts,
        "tokens": round(tokens),
        "mean_length": tokens / rollouts,
        "max_completion_length": config.max_completion_length,
        "max_prompt_length": config.max_prompt_length,
        **totals,
        **distribution(prompts_C),
        "by_perplexity": _by_perplexity(added),
    }


def _by_perplexity(added: AddedColumns) -> list[dict[str, Any]]:
    """Pass rates by perplexity if the dataset has perplexities; these alone are held in memory for all rows."""
    features = added.dataset.table.features
    if "ppl" not in features or not features["ppl"].dtype.startswith(("float", "int")):
        return []
    ppl_P = np.concatenate([rows["ppl"].cast(pa.float64()).to_numpy() for rows in added.dataset.batches(["ppl"])])
    rate_P = np.concatenate([part["pass_rate"].to_numpy() for part in added.parts(["pass_rate"])])
    return by_perplexity(ppl_P, rate_P)
