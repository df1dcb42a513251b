"""Score the perplexity of a dataset's prompts and write it beside the dataset's own columns.

Prompts are rendered in a thread, a chunk ahead of the one that is scored. Only perplexities are held in memory, 8 bytes
a row; the dataset's columns are streamed, and an interrupted scoring resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prepo_cli.data.loading import PromptDataset, load_configured_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines import ENGINES, build_engine
from prepo_cli.engines.base import Progress
from prepo_cli.errors import RunError
from prepo_cli.evaluation.added_columns import AddedColumns
from prepo_cli.evaluation.output import claimed
from prepo_cli.evaluation.score_context import PerplexityContext
from prepo_cli.evaluation.settings import DEFAULT_CONTEXT, ScoringConfig, digest_model
from prepo_cli.policy.loading import load_model_spec, load_policy, model_source, verify_model
from prepo_cli.policy.plans import Span
from prepo_cli.policy.policy import NOT_FINITE, Policy, perplexities
from prepo_cli.terminal import say

CHUNK_ROWS = 512
"""Rows that are rendered while as many are scored, and that are saved together."""
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
    rows, seconds = added.compute(scorer.render, scorer.columns)
    ppl_N, tokens = np.empty(len(dataset)), 0
    for chunk, part in zip(chunks, added.parts(["ppl", "ppl_tokens"]), strict=True):
        ppl_N[chunk.start : chunk.stop] = part["ppl"].to_numpy()
        tokens += pc.sum(part["ppl_tokens"]).as_py()
    added.write()
    report = {"output": str(config.output), "context": json.loads(scorer.context.to_json())}
    report |= {"skipped_rows": dataset.skipped} | distribution(ppl_N, tokens)
    return report | {"seconds": seconds, "prompts_per_second": rows / max(seconds, 1e-9)}, ppl_N


def fingerprint(config: ScoringConfig, dataset: PromptDataset) -> str:
    """Hex digest of all that the perplexities depend on: settings, the model's files and the dataset's prompts."""
    settings = config.model_dump(mode="json", exclude={"output", "batch_tokens", "engine"})
    settings |= {"engine": config.engine.name, "chunk_rows": CHUNK_ROWS}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    digest_model(digest, Path(model_source(config.model.model_name_or_path)))
    column = dataset.prompt_column.partition(".")[0]
    for start in range(0, len(dataset), DIGEST_ROWS):
        prompts = dataset.part(range(start, min(start + DIGEST_ROWS, len(dataset))), [column])
        digest.update(json.dumps(prompts.to_pylist(), default=str).encode())
    return digest.hexdigest()


def distribution(ppl_N: npt.NDArray[np.float64], tokens: int) -> dict[str, Any]:
    """Counts, and mean, median, extremes and deciles of the known perplexities; `tokens` are those scored.

    >>> distribution(np.array([2.0, 4.0, np.nan]), 12)["mean"]
    3.0
    """
    known = ppl_N[~np.isnan(ppl_N)]
    report: dict[str, Any] = {"prompts": len(ppl_N), "scored": len(known), "tokens": tokens}
    if len(known):
        report |= {"mean": float(known.mean()), "median": float(np.median(known))}
        report |= {"min": float(known.min()), "max": float(known.max())}
        report["deciles"] = np.quantile(known, np.arange(1, 10) / 10).tolist()
    return report


class _Prompt(NamedTuple):
    """A prompt's token ids, in a tenth of a list's memory, and which of them are scored."""

    ids_T: npt.NDArray[np.int32]
    span: Span


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

    def render(self, rows: range) -> list[_Prompt | None]:
        """The rows' prompts, None where one is too long."""
        return [self._prompt(row) for row in rows]

    def columns(self, rows: range, prompts: Sequence[_Prompt | None], advance: Progress) -> pa.Table:
        """The new columns of some rows."""
        ppl_N2 = self._perplexities(rows, prompts, advance)
        return pa.table(
            {
                "ppl": pa.array(ppl_N2[:, 0], mask=np.isnan(ppl_N2[:, 0])),
                "ppl_tokens": pa.array(ppl_N2[:, 1].astype(np.int64)),
                self.context.column: [self.context.to_json()] * len(rows),
            }
        )

    def _perplexities(
        self, rows: range, prompts: Sequence[_Prompt | None], advance: Progress
    ) -> npt.NDArray[np.float64]:
        """Perplexity and scored tokens of each row, [rows, 2]; NaN and 0 for prompts that are too long.

        Raises:
            RunError: one isn't finite.
        """
        fitting = {i: prompt for i, prompt in enumerate(prompts) if prompt is not None}
        order = sorted(fitting, key=lambda i: len(fitting[i].ids_T))
        result_N2 = np.full((len(rows), 2), np.nan)
        result_N2[:, 1] = 0
        for start in range(0, len(order), BATCH_ROWS):
            batch = order[start : start + BATCH_ROWS]
            ids = [fitting[i].ids_T.tolist() for i in batch]
            result_N2[batch] = self.perplexity(ids, [fitting[i].span for i in batch])
            for i in batch:
                if result_N2[i, 1] and not np.isfinite(result_N2[i, 0]):
                    name = self.dataset.prompt(rows[i]).id
                    raise RunError(f"the perplexity of prompt '{name}' is {result_N2[i, 0]:g}: {NOT_FINITE}")
            advance(len(batch))
        advance(len(rows) - len(order))
        return result_N2

    def _prompt(self, row: int) -> _Prompt | None:
        messages = self.dataset.messages(row)
        if self.longest is not None and self.renderer.is_longer(messages, self.longest):
            return None
        rendered = self.renderer(messages)
        if self.longest is not None and len(rendered.token_ids) > self.longest:
            return None
        return _Prompt(np.array(rendered.token_ids, dtype=np.int32), rendered.scored_span(self.scope))


def engine_perplexity(engine: Any, rows: list[list[int]], spans: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Perplexity and scored tokens of each row's span [N, 2] from an engine's prompt log-probs."""
    logprobs = engine.prompt_logprobs(rows)
    # Entry i of a row belongs to token i + 1: nothing predicts the first.
    return perplexities([row[max(a, 1) - 1 : max(b, 1) - 1] for row, (a, b) in zip(logprobs, spans, strict=True)])
