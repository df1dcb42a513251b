"""Loading a model with its tokenizer: the embedded one, a folder, or a hub name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from prepo_cli.adapters import add_adapters, hub_weights
from prepo_cli.config import ASSETS
from prepo_cli.errors import UsageError
from prepo_cli.sections import EMBEDDED, ModelConfig
from prepo_cli.training.scoring import TokenScorer, pad_rows, spans_mask, token_batches

FloatArray = npt.NDArray[np.float32]
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Rows scored in one forward pass: the tokens in [start, end) of each, except a row's first token."""

    rows: list[list[int]]
    spans: list[tuple[int, int]]
    temperatures: list[float]
    with_entropy: bool = False


Scores = list[tuple[FloatArray, FloatArray | None]]
"""Log-probs and, where asked for, entropies (nats) of each row's scored tokens, float32."""


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights; `source` is its folder or hub name."""

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]
    max_context: int | None
    source: str


@dataclass
class Policy:
    """A causal LM, its tokenizer, and the questions one may ask it.

    `adapter` is the peft model around it, if any; `source` the folder or hub name it was loaded from.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    scorer: Any
    device: torch.device
    eos_token_ids: frozenset[int]
    pad_token_id: int
    adapter: Any | None = None
    source: str = ""

    @property
    def max_context(self) -> int | None:
        """Tokens that prompt and completion may take together, where the model has a limit."""
        return _max_context(self.model.config)

    @property
    def vocab_size(self) -> int:
        """Size of the output distribution."""
        return int(self.scorer.vocab_size)

    @torch.no_grad()
    def score_batch(self, batch: ScoreBatch) -> Scores:
        """One padded forward pass."""
        self.scorer.eval()
        ids, mask = pad_rows(batch.rows, self.pad_token_id, self.device)
        chosen = spans_mask(batch.spans, ids.shape[1], self.device)
        heat = torch.tensor(batch.temperatures, dtype=torch.float32, device=self.device)
        logprobs, entropies = self.scorer(ids, mask, chosen, heat, batch.with_entropy)
        counts = chosen.sum(dim=1).tolist()
        parts = [part.numpy() for part in logprobs.cpu().split(counts)]
        if not batch.with_entropy:
            return [(part, None) for part in parts]
        return list(zip(parts, (part.numpy() for part in entropies.cpu().split(counts)), strict=True))

    def score(
        self,
        rows: list[list[int]],
        spans: list[tuple[int, int]],
        temperatures: list[float],
        max_batch_tokens: int,
        with_entropy: bool = False,
    ) -> Scores:
        """Log-probs and entropies of each row's tokens in [start, end), except the first token of a row."""
        results: list[Any] = [None] * len(rows)
        for indices, batch in score_batches(rows, spans, temperatures, max_batch_tokens, with_entropy):
            for i, scores in zip(indices, self.score_batch(batch), strict=True):
                results[i] = scores
        return results

    def perplexity(
        self, token_ids: list[list[int]], spans: list[tuple[int, int]], max_batch_tokens: int
    ) -> npt.NDArray[np.float64]:
        """Perplexity and number of scored tokens of each row's span, [N, 2]; NaN where no token can be scored."""
        scores = self.score(token_ids, spans, [1.0] * len(token_ids), max_batch_tokens)
        return perplexities([logprobs for logprobs, _ in scores])

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full weights under the hub's names, adapters merged; what engines and exports take."""
        return hub_weights(self.model)


def score_batches(
    rows: list[list[int]],
    spans: list[tuple[int, int]],
    temperatures: list[float],
    max_batch_tokens: int,
    with_entropy: bool = False,
) -> Iterator[tuple[list[int], ScoreBatch]]:
    """Batches of at most `max_batch_tokens` padded tokens, longest rows first, and which rows are in each."""
    for indices in token_batches([len(row) for row in rows], max_batch_tokens):
        yield (
            indices,
            ScoreBatch(
                [rows[i] for i in indices],
                [spans[i] for i in indices],
                [temperatures[i] for i in indices],
                with_entropy,
            ),
        )


def perplexities(logprobs: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
    """Perplexity and number of scored tokens of each row [N, 2]; NaN where there is none.

    P = exp(-(1/T) sum log p(x_t | x_<t)) at temperature 1 (PREPO, 2511.00794); token 0 has no prediction.
    """
    result_N2 = np.full((len(logprobs), 2), np.nan)
    for i, row in enumerate(logprobs):
        result_N2[i, 1] = len(row)
        if len(row):
            result_N2[i, 0] = np.exp(-np.mean(row, dtype=np.float64))
    return result_N2


def load_policy(
    config: ModelConfig,
    *,
    train: bool = False,
    device: str | torch.device | None = None,
    adapters: Path | None = None,
    seed: int = 0,
) -> Policy:
    """Load model and tokenizer; for training with the configured LoRA adapters, those of `adapters` if given.

    `seed` is that of fresh adapters.

    Raises:
        UsageError: no such model, no tokenizer, or a tokenizer without an end-of-sequence token.
    """
    name = model_source(config.model_name_or_path)
    options = _options(config)
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    with _one_line(config):
        tokenizer = load_tokenizer(name, **_options(config))
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, config.dtype), **options)
    eos = _eos_token_ids(config, model.generation_config, model.config, tokenizer)
    if train and config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapter = add_adapters(model, config, adapters, seed) if train and config.use_peft else None
    place = torch.device(device) if device else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(place)
    model.eval()
    for parameter in model.parameters():
        # Weights may lie in the mapped file, at any alignment; sums in kernels depend on it in the last bit.
        parameter.data = parameter.data.clone()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
    return Policy(model, tokenizer, TokenScorer(model), place, eos, pad, adapter, name)


def load_outline(config: ModelConfig) -> Outline:
    """What an engine that loads the weights itself needs to know; raises UsageError as `load_policy` does."""
    name = model_source(config.model_name_or_path)
    with _one_line(config):
        tokenizer = load_tokenizer(name, **_options(config))
        settings = AutoConfig.from_pretrained(name, **_options(config))
        try:
            generation = GenerationConfig.from_pretrained(name, revision=config.revision or "main")
        except OSError:  # there need be none
            generation = None
    eos = _eos_token_ids(config, generation, settings.get_text_config(), tokenizer)
    return Outline(tokenizer, eos, _max_context(settings), name)


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer as it was saved.

    For some architectures (Qwen2 among them) AutoTokenizer puts its own class, with its own pre-tokenizer, in the
    place of a plain tokenizer.json, and the ids come out wrong without a word; a folder that says it holds a plain
    one is therefore loaded as such.
    """
    saved = Path(name) / "tokenizer_config.json"
    plain = saved.is_file() and (Path(name) / "tokenizer.json").is_file()
    if plain and json.loads(saved.read_text(encoding="utf-8")).get("tokenizer_class") in PLAIN_TOKENIZERS:
        return PreTrainedTokenizerFast.from_pretrained(name)
    return AutoTokenizer.from_pretrained(name, **options)


def model_source(name: str) -> str:
    """The folder of the embedded model, a run's `final` folder, or the name as it is."""
    if name == EMBEDDED:
        return str(ASSETS / "model")
    path = Path(name)
    if (path / "final" / "config.json").is_file():
        return str(path / "final")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(f"{name} holds no model (no config.json) and no finished run (no final/)")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"no such model folder: {name}")
    return name


def _eos_token_ids(config: ModelConfig, *owners: Any) -> frozenset[int]:
    """All tokens that end a turn, from generation config, model config and tokenizer; UsageError if there is none."""
    found: set[int] = set()
    for owner in owners:
        value = getattr(owner, "eos_token_id", None)
        found |= set(value) if isinstance(value, list | tuple) else {value} if value is not None else set()
    if not found:
        raise UsageError(f"model '{config.model_name_or_path}' names no end-of-sequence token; set eos_token_id in it")
    return frozenset(int(token) for token in found)


def _max_context(settings: Any) -> int | None:
    limit = getattr(settings.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def _options(config: ModelConfig) -> dict[str, Any]:
    return {"trust_remote_code": config.trust_remote_code, "revision": config.revision}


@contextmanager
def _one_line(config: ModelConfig) -> Iterator[None]:
    """Library chatter off, and what can't be loaded said in one line."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"model '{config.model_name_or_path}' can't be loaded: {reason}") from error
