"""Scoring a dataset's prompts: their perplexity in chunks, kept as they finish, then written beside the columns.

While it runs, `OUTPUT.partial/` holds one small file a chunk and the fingerprint of what is being scored; the same
command goes on from there. Only perplexities are held in memory; the dataset's own columns are streamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines import ENGINES, build_engine
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.settings import digest_model
from prepo_cli.files import atomic_write
from prepo_cli.policy.loading import load_model_spec, load_policy, model_source
from prepo_cli.policy.policy import Policy, perplexities
from prepo_cli.sections import EngineConfig, ModelConfig
from prepo_cli.terminal import progress, say

CHUNK_ROWS = 2048
BATCH_ROWS = 256
DEFAULT_CONTEXT = 32768
"""Of a vLLM engine, for a model that states no limit."""
FORMATS = (".jsonl", ".parquet", ".csv")


@dataclass(frozen=True)
class ScoringConfig:
    """What is scored and how. Prompts of more than `max_prompt_length` tokens get no perplexity and are counted."""

    dataset_name: str
    output: Path
    model: ModelConfig
    split: str = "train"
    limit: int | None = None
    scope: str = "question"
    batch_tokens: int = 16384
    max_prompt_length: int | None = None
    prompt_column: str | None = None
    skip_bad_rows: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)

    def fingerprint(self) -> str:
        """Hex digest of the settings, the model's files and the dataset's file."""
        settings = asdict(self) | {"model": self.model.model_dump(mode="json"), "engine": self.engine.name}
        settings |= {"batch_tokens": None}
        digest = hashlib.blake2b(json.dumps(settings, default=str, sort_keys=True).encode(), digest_size=16)
        digest_model(digest, Path(model_source(self.model.model_name_or_path)))
        file = Path(self.dataset_name)
        if file.is_file():
            digest.update(f"{file.stat().st_size}:{file.stat().st_mtime_ns}".encode())
        return digest.hexdigest()


def score_dataset(config: ScoringConfig) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
    """Write the dataset with columns `ppl` and `ppl_tokens`; returns what to report and the perplexities [N].

    Raises:
        UsageError: bad data or output; KeyboardInterrupt: finished chunks are kept.
    """
    _refuse_unwritable(config.output)
    dataset = load_prompts(
        config.dataset_name,
        split=config.split,
        limit=config.limit,
        prompt_column=config.prompt_column,
        skip_bad_rows=config.skip_bad_rows,
        need_answer=False,
    )
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    parts = _Parts(config.output.with_name(config.output.name + ".partial"), config.fingerprint())
    scorer = _Scorer(config, dataset)
    chunks = [range(at, min(at + CHUNK_ROWS, len(dataset))) for at in range(0, len(dataset), CHUNK_ROWS)]
    todo = [number for number in range(len(chunks)) if not parts.has(number)]
    rows_now = sum(len(chunks[number]) for number in todo)
    if rows_now < len(dataset):
        say(f"going on: {len(dataset) - rows_now:,} prompts were scored before")
    started = perf_counter()
    with progress("score", rows_now, "prompts") as advance:
        for number in todo:
            parts.write(number, scorer.chunk(chunks[number], advance))
    seconds = perf_counter() - started
    ppl_N2 = np.concatenate([parts.read(number) for number in range(len(chunks))])
    _write(dataset, ppl_N2, config.output)
    parts.clear()
    report = distribution(ppl_N2) | {"seconds": seconds, "prompts_per_second": rows_now / max(seconds, 1e-9)}
    return {"output": str(config.output), "skipped_rows": dataset.skipped} | report, ppl_N2[:, 0]


def distribution(ppl_N2: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Count, mean, median, extremes and deciles of the perplexities that are known."""
    known = ppl_N2[~np.isnan(ppl_N2[:, 0]), 0]
    report: dict[str, Any] = {"prompts": len(ppl_N2), "scored": len(known), "tokens": int(ppl_N2[:, 1].sum())}
    if len(known):
        report |= {"mean": float(known.mean()), "median": float(np.median(known))}
        report |= {"min": float(known.min()), "max": float(known.max())}
        report["deciles"] = np.quantile(known, np.arange(1, 10) / 10).tolist()
    return report


class _Scorer:
    """Perplexities of a chunk of rows, batches of similar length together."""

    def __init__(self, config: ScoringConfig, dataset: PromptDataset) -> None:
        self.config, self.dataset = config, dataset
        scores_prompts = ENGINES[config.engine.name].load().scores_prompts
        subject = load_model_spec(config.model) if scores_prompts else load_policy(config.model)
        self.renderer = Renderer(subject.tokenizer)
        limits = [limit for limit in (config.max_prompt_length, subject.max_context) if limit is not None]
        self.longest = min(limits, default=None)
        if isinstance(subject, Policy):
            self.perplexity = partial(subject.perplexity, max_batch_tokens=config.batch_tokens)
        else:
            # vLLM scores a prompt on the way to a token of its own, which needs room too.
            self.longest = None if self.longest is None else min(self.longest, (subject.max_context or 2**30) - 1)
            engine = build_engine(
                config.engine,
                subject,
                config.model,
                max_context=(self.longest or DEFAULT_CONTEXT) + 1,
                seed=0,
                sync_dir=config.output.with_name(config.output.name + ".sync"),
            )
            self.perplexity = partial(engine_perplexity, engine)

    def chunk(self, rows: range, advance: Callable[[int], None]) -> npt.NDArray[np.float64]:
        """Perplexity and scored tokens of each row, [rows, 2]; NaN and 0 for prompts that are too long."""
        rendered = [self.renderer(self.dataset.messages(row)) for row in rows]
        fits = [i for i, r in enumerate(rendered) if self.longest is None or len(r.token_ids) <= self.longest]
        result_N2 = np.full((len(rows), 2), np.nan)
        result_N2[:, 1] = 0
        fits.sort(key=lambda i: len(rendered[i].token_ids))
        for at in range(0, len(fits), BATCH_ROWS):
            batch = fits[at : at + BATCH_ROWS]
            ids = [rendered[i].token_ids for i in batch]
            whole = self.config.scope == "prompt"
            spans = [(0, len(rendered[i].token_ids)) if whole else rendered[i].question_span for i in batch]
            result_N2[batch] = self.perplexity(ids, spans)
            advance(len(batch))
        advance(len(rows) - len(fits))
        return result_N2


def engine_perplexity(engine: Any, rows: list[list[int]], spans: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Perplexity and scored tokens of each row's span [N, 2] from an engine's prompt log-probs."""
    logprobs = engine.prompt_logprobs(rows)
    # Entry i of a row belongs to token i + 1: nothing predicts the first.
    return perplexities([row[max(a, 1) - 1 : max(b, 1) - 1] for row, (a, b) in zip(logprobs, spans, strict=True)])


class _Parts:
    """Finished chunks of one scoring, which its fingerprint names; those of another are dropped."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        mark = folder / "fingerprint"
        if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint):
            say(f"{folder} is of other settings, model or data: starting anew")
            shutil.rmtree(folder)
        if not folder.is_dir():
            folder.mkdir()
            atomic_write(mark, fingerprint)

    def has(self, number: int) -> bool:
        """Whether the chunk is done."""
        return self._path(number).is_file()

    def write(self, number: int, values_N2: npt.NDArray[np.float64]) -> None:
        """Keep a chunk."""
        partial = self.folder / "writing"
        with partial.open("wb") as file:
            np.save(file, values_N2, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path(number))

    def read(self, number: int) -> npt.NDArray[np.float64]:
        """A chunk's values."""
        values_N2: npt.NDArray[np.float64] = np.load(self._path(number), allow_pickle=False)
        return values_N2

    def clear(self) -> None:
        """All is written elsewhere."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.npy"


def _refuse_unwritable(output: Path) -> None:
    if output.suffix not in FORMATS:
        raise UsageError(f"--output {output}: end it in one of {', '.join(FORMATS)}")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file")
    probe = output.with_name(output.name + ".probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--output {output} can't be written ({error.strerror}); name another file") from error


def _write(dataset: PromptDataset, ppl_N2: npt.NDArray[np.float64], output: Path) -> None:
    """The dataset's rows with the two columns, streamed into a file that is then moved into place."""
    table = dataset.usable()
    table = table.remove_columns([name for name in ("ppl", "ppl_tokens") if name in table.column_names])
    table = table.add_column("ppl", pa.array(ppl_N2[:, 0], mask=np.isnan(ppl_N2[:, 0])))
    table = table.add_column("ppl_tokens", pa.array(ppl_N2[:, 1].astype(np.int64)))
    partial = output.with_name(output.name + ".writing")
    if output.suffix == ".jsonl":
        table.to_json(partial, lines=True, force_ascii=False)
    elif output.suffix == ".parquet":
        table.to_parquet(partial)
    else:
        table.to_csv(partial)
    partial.replace(output)
