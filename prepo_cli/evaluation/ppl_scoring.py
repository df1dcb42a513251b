"""Score the perplexity of a dataset's prompts and write it beside the dataset's own columns.

Only perplexities are held in memory; the dataset's columns are streamed, and an interrupted scoring resumes.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prepo_cli.data.loading import PromptDataset, load_configured_prompts
from prepo_cli.data.rendering import Rendered, Renderer
from prepo_cli.engines import ENGINES, build_engine
from prepo_cli.engines.base import Progress
from prepo_cli.errors import RunError
from prepo_cli.evaluation.added_columns import AddedColumns
from prepo_cli.evaluation.output import claimed
from prepo_cli.evaluation.score_context import PerplexityContext
from prepo_cli.evaluation.settings import DEFAULT_CONTEXT, ScoringConfig, digest_model
from prepo_cli.policy.loading import load_model_spec, load_policy, model_source, verify_model
from prepo_cli.policy.policy import NOT_FINITE, Policy, perplexities
from prepo_cli.terminal import say

CHUNK_ROWS = 2048
BATCH_ROWS = 256
DIGEST_ROWS = 10_000


def score_dataset(
    config: ScoringConfig, *, overwrite: bool = False, break_lock: bool = False
) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
    """Write the dataset with columns `ppl`, `ppl_tokens` and `ppl_context`; returns a report and the perplexities [N].

    Raises:
        UsageError: bad data or output; KeyboardInterrupt: finished chunks are kept.
    """
    column = PerplexityContext.column
    with claimed(config.output, config.dataset_name, column, overwrite=overwrite, break_lock=break_lock):
        return _score(config)


def _score(config: ScoringConfig) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
    dataset = load_configured_prompts(config, need_answer=False)
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    chunks = [range(start, min(start + CHUNK_ROWS, len(dataset))) for start in range(0, len(dataset), CHUNK_ROWS)]
    added = AddedColumns(dataset, config.output, fingerprint(config, dataset), chunks)
    scorer = _Scorer(config, dataset)
    rows, seconds = added.compute(scorer.columns)
    columns = pa.concat_tables([part.select(["ppl", "ppl_tokens"]) for part in added.parts()])
    ppl_N2 = np.column_stack([columns["ppl"].to_numpy(), columns["ppl_tokens"].to_numpy()])
    added.write()
    report = {"output": str(config.output), "context": json.loads(scorer.context.to_json())}
    report |= {"skipped_rows": dataset.skipped} | distribution(ppl_N2)
    return report | {"seconds": seconds, "prompts_per_second": rows / max(seconds, 1e-9)}, ppl_N2[:, 0]


def fingerprint(config: ScoringConfig, dataset: PromptDataset) -> str:
    """Hex digest of all that the perplexities depend on: settings, the model's files and the dataset's prompts."""
    settings = config.model_dump(mode="json", exclude={"output", "batch_tokens", "engine"})
    settings["engine"] = config.engine.name
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    digest_model(digest, Path(model_source(config.model.model_name_or_path)))
    prompts = dataset.usable().select_columns([dataset.prompt_column.partition(".")[0]]).with_format("arrow")
    for batch in prompts.iter(DIGEST_ROWS):
        digest.update(json.dumps(batch.to_pylist(), default=str).encode())
    return digest.hexdigest()


def distribution(ppl_N2: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Count, mean, median, extremes and deciles of the known perplexities.

    >>> distribution(np.array([[2.0, 5], [4.0, 7], [np.nan, 0]]))["mean"]
    3.0
    """
    known = ppl_N2[~np.isnan(ppl_N2[:, 0]), 0]
    report: dict[str, Any] = {"prompts": len(ppl_N2), "scored": len(known), "tokens": int(ppl_N2[:, 1].sum())}
    if len(known):
        report |= {"mean": float(known.mean()), "median": float(np.median(known))}
        report |= {"min": float(known.min()), "max": float(known.max())}
        report["deciles"] = np.quantile(known, np.arange(1, 10) / 10).tolist()
    return report


class _Scorer:
    """Perplexities of a chunk of rows, in batches of similar length."""

    def __init__(self, config: ScoringConfig, dataset: PromptDataset) -> None:
        verify_model(config.model)
        self.scope, self.dataset = config.scope, dataset
        scores_prompts = ENGINES[config.engine.name].load().scores_prompts
        model = load_model_spec(config.model) if scores_prompts else load_policy(config.model)
        self.renderer = Renderer(model.tokenizer, config.system_prompt, config.chat_template_kwargs)
        self.context = PerplexityContext.of(config.model, self.renderer, scope=config.scope)
        limits = [limit for limit in (config.max_prompt_length, model.max_context) if limit is not None]
        self.longest = min(limits, default=None)
        if isinstance(model, Policy):
            self.perplexity = partial(model.perplexity, max_batch_tokens=config.batch_tokens)
        else:
            # vLLM scores a prompt while generating one token, which needs room too.
            self.longest = None if self.longest is None else min(self.longest, (model.max_context or 2**30) - 1)
            engine = build_engine(
                config.engine,
                model,
                config.model,
                max_context=(self.longest or DEFAULT_CONTEXT) + 1,
                seed=0,
                sync_dir=config.output.with_name(config.output.name + ".sync"),
            )
            self.perplexity = partial(engine_perplexity, engine)

    def columns(self, rows: range, advance: Progress) -> pa.Table:
        """The new columns of some rows."""
        ppl_N2 = self.chunk(rows, advance)
        return pa.table(
            {
                "ppl": pa.array(ppl_N2[:, 0], mask=np.isnan(ppl_N2[:, 0])),
                "ppl_tokens": pa.array(ppl_N2[:, 1].astype(np.int64)),
                self.context.column: [self.context.to_json()] * len(rows),
            }
        )

    def chunk(self, rows: range, advance: Progress) -> npt.NDArray[np.float64]:
        """Perplexity and scored tokens of each row, [rows, 2]; NaN and 0 for prompts that are too long.

        Raises:
            RunError: one isn't finite.
        """
        rendered = {i: prompt for i, row in enumerate(rows) if (prompt := self._render(row)) is not None}
        fits = list(rendered)
        result_N2 = np.full((len(rows), 2), np.nan)
        result_N2[:, 1] = 0
        fits.sort(key=lambda i: len(rendered[i].token_ids))
        for start in range(0, len(fits), BATCH_ROWS):
            batch = fits[start : start + BATCH_ROWS]
            ids = [rendered[i].token_ids for i in batch]
            result_N2[batch] = self.perplexity(ids, [rendered[i].scored_span(self.scope) for i in batch])
            for i in batch:
                if result_N2[i, 1] and not np.isfinite(result_N2[i, 0]):
                    name = self.dataset.prompt(rows[i]).id
                    raise RunError(f"the perplexity of prompt '{name}' is {result_N2[i, 0]:g}: {NOT_FINITE}")
            advance(len(batch))
        advance(len(rows) - len(fits))
        return result_N2

    def _render(self, row: int) -> Rendered | None:
        """The row's prompt, or None if it is too long."""
        messages = self.dataset.messages(row)
        if self.longest is not None and self.renderer.is_longer(messages, self.longest):
            return None
        rendered = self.renderer(messages)
        return rendered if self.longest is None or len(rendered.token_ids) <= self.longest else None


def engine_perplexity(engine: Any, rows: list[list[int]], spans: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Perplexity and scored tokens of each row's span [N, 2] from an engine's prompt log-probs."""
    logprobs = engine.prompt_logprobs(rows)
    # Entry i of a row belongs to token i + 1: nothing predicts the first.
    return perplexities([row[max(a, 1) - 1 : max(b, 1) - 1] for row, (a, b) in zip(logprobs, spans, strict=True)])
