"""Loading a model with its tokenizer: the embedded one, a folder, or a hub name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from prepo_cli.config import ASSETS, EMBEDDED, ModelConfig
from prepo_cli.errors import UsageError
from prepo_cli.training.scoring import TokenScorer, pad_rows, spans_mask, token_batches

PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


@dataclass
class Policy:
    """A causal LM, its tokenizer, and the questions one may ask it."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    scorer: Any
    device: torch.device
    eos_token_ids: frozenset[int]
    pad_token_id: int

    @property
    def max_context(self) -> int | None:
        """Tokens that prompt and completion may take together, where the model has a limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def vocab_size(self) -> int:
        """Size of the output distribution."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def score(
        self,
        rows: list[list[int]],
        spans: list[tuple[int, int]],
        temperatures: list[float],
        max_batch_tokens: int,
        with_entropy: bool = False,
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]]:
        """Log-probs and entropies of each row's tokens in [start, end), except the first token of a row."""
        results: list[Any] = [None] * len(rows)
        self.scorer.eval()
        for batch in token_batches([len(row) for row in rows], max_batch_tokens):
            ids, mask = pad_rows([rows[i] for i in batch], self.pad_token_id, self.device)
            chosen = spans_mask([spans[i] for i in batch], ids.shape[1], self.device)
            heat = torch.tensor([temperatures[i] for i in batch], dtype=torch.float32, device=self.device)
            logprobs, entropies = self.scorer(ids, mask, chosen, heat, with_entropy)
            counts = chosen.sum(dim=1).tolist()
            parts = logprobs.cpu().split(counts)
            heats = entropies.cpu().split(counts) if with_entropy else [None] * len(batch)
            for i, logprob, entropy in zip(batch, parts, heats, strict=True):
                results[i] = (logprob.numpy(), None if entropy is None else entropy.numpy())
        return results

    def perplexity(
        self, token_ids: list[list[int]], spans: list[tuple[int, int]], max_batch_tokens: int
    ) -> npt.NDArray[np.float64]:
        """Perplexity and number of scored tokens of each row's span, [N, 2]; NaN where no token can be scored.

        P = exp(-(1/T) sum log p(x_t | x_<t)) at temperature 1 (PREPO, 2511.00794); token 0 has no prediction.
        """
        scores = self.score(token_ids, spans, [1.0] * len(token_ids), max_batch_tokens)
        result_N2 = np.full((len(scores), 2), np.nan)
        for i, (logprobs, _) in enumerate(scores):
            result_N2[i, 1] = len(logprobs)
            if len(logprobs):
                result_N2[i, 0] = np.exp(-np.mean(logprobs, dtype=np.float64))
        return result_N2


def load_policy(config: ModelConfig, *, train: bool = False, device: str | torch.device | None = None) -> Policy:
    """Load model and tokenizer.

    Raises:
        UsageError: no such model, no tokenizer, or a tokenizer without an end-of-sequence token.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    name = model_source(config.model_name_or_path)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code, "revision": config.revision}
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    try:
        tokenizer = load_tokenizer(name, trust_remote_code=config.trust_remote_code, revision=config.revision)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, config.dtype), **options)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"model '{config.model_name_or_path}' can't be loaded: {reason}") from error
    eos = _eos_token_ids(model, tokenizer)
    if not eos:
        raise UsageError(f"model '{config.model_name_or_path}' names no end-of-sequence token; set eos_token_id in it")
    if train and config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    place = torch.device(device) if device else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(place)
    model.eval()
    for parameter in model.parameters():
        # Weights may lie in the mapped file, at any alignment; sums in kernels depend on it in the last bit.
        parameter.data = parameter.data.clone()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
    return Policy(model, tokenizer, TokenScorer(model), place, eos, pad)


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


def _eos_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All tokens that end a turn, from generation config, model config and tokenizer."""
    found: set[int] = set()
    for owner in (model.generation_config, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found |= set(value) if isinstance(value, list | tuple) else {value} if value is not None else set()
    return frozenset(int(token) for token in found)
