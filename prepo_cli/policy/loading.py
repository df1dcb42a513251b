"""Loading a model with its tokenizer: the embedded one, a folder, or a hub name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

from prepo_cli import manifest
from prepo_cli.errors import UsageError, one_line
from prepo_cli.machine import keep_freed_memory
from prepo_cli.models import EMBEDDED_MODEL
from prepo_cli.policy.adapters import add_adapters
from prepo_cli.policy.policy import ModelSpec, Policy, max_context_of
from prepo_cli.policy.scoring import TokenScorer
from prepo_cli.sections import EMBEDDED, ModelConfig

PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_policy(
    config: ModelConfig,
    *,
    train: bool = False,
    device: str | torch.device | None = None,
    adapters: Path | None = None,
    seed: int = 0,
) -> Policy:
    """Load model and tokenizer.

    With `train`, the configured LoRA adapters are added: those saved in `adapters`, or fresh ones derived from `seed`.

    Raises:
        UsageError: no such model, no tokenizer, or a tokenizer without an end-of-sequence token.
    """
    name = model_source(config.model_name_or_path)
    options = _options(config)
    if config.attn_implementation:
        options["attn_implementation"] = config.attn_implementation
    with _plain_errors(config):
        tokenizer = load_tokenizer(name, **_options(config))
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, config.dtype), **options)
    eos = _eos_token_ids(config, model.generation_config, model.config, tokenizer)
    if train and config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapter = add_adapters(model, config, adapters, seed) if train and config.use_peft else None
    place = torch.device(device) if device else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.type == "cpu":
        keep_freed_memory()
    model.to(place)
    model.eval()
    for parameter in model.parameters():
        # Copied, because memory-mapped weights may have any alignment, which affects the last bit of a kernel's sums.
        parameter.data = parameter.data.clone()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
    return Policy(model, tokenizer, TokenScorer(model), place, eos, pad, adapter, name)


def load_model_spec(config: ModelConfig) -> ModelSpec:
    """What an engine that loads the weights itself needs; raises UsageError as `load_policy` does."""
    name = model_source(config.model_name_or_path)
    with _plain_errors(config):
        tokenizer = load_tokenizer(name, **_options(config))
        settings = AutoConfig.from_pretrained(name, **_options(config))
        try:
            generation = GenerationConfig.from_pretrained(name, revision=config.revision or "main")
        except OSError:  # it is optional
            generation = None
    eos = _eos_token_ids(config, generation, settings.get_text_config(), tokenizer)
    return ModelSpec(tokenizer, eos, max_context_of(settings), name)


def verify_model(config: ModelConfig) -> None:
    """Check a model that prepo saved, in a run's `final` or a checkpoint, by its manifest; others have none.

    Files that have been added to it are no fault.

    Raises:
        UsageError: a file is damaged or missing.
    """
    folder = Path(model_source(config.model_name_or_path))
    owner = next((owner for owner in (folder, folder.parent) if manifest.has_manifest(owner)), None)
    if owner is None:
        return
    try:
        manifest.verify(owner, part=folder)
    except manifest.Damaged as error:
        raise UsageError(
            f"model {folder} is damaged: {error}; save it again with prepo train --resume or, if "
            f"you changed it yourself, delete {owner / manifest.NAME}"
        ) from error


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer as it was saved.

    For some architectures (Qwen2 among them) AutoTokenizer replaces a plain tokenizer.json by a class with a
    different pre-tokenizer, and the ids are silently wrong; a folder that declares a plain tokenizer is loaded as one.
    """
    saved = Path(name) / "tokenizer_config.json"
    plain = saved.is_file() and (Path(name) / "tokenizer.json").is_file()
    tokenizer: PreTrainedTokenizerBase
    if plain and json.loads(saved.read_text(encoding="utf-8")).get("tokenizer_class") in PLAIN_TOKENIZERS:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name)
    else:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    return tokenizer


def model_source(name: str) -> str:
    """The folder of the embedded model, a run's `final` folder, or the name unchanged."""
    if name == EMBEDDED:
        return str(EMBEDDED_MODEL)
    path = Path(name)
    if (path / "final" / "config.json").is_file():
        return str(path / "final")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"{name} contains neither a model (config.json) nor a finished run (final/); choose another folder"
        )
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
        raise UsageError(
            f"model '{config.model_name_or_path}' has no end-of-sequence token; set eos_token_id in its configuration"
        )
    return frozenset(int(token) for token in found)


def _options(config: ModelConfig) -> dict[str, Any]:
    return {"trust_remote_code": config.trust_remote_code, "revision": config.revision}


@contextmanager
def _plain_errors(config: ModelConfig) -> Iterator[None]:
    """Silence the libraries, and turn their loading errors into one line."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"model '{config.model_name_or_path}' can't be loaded: {one_line(error)}") from error
