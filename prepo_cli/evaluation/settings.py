"""The configurations of `prepo eval`, `score-ppl` and `score-passrate`, and a fingerprint of what results depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from prepo_cli.errors import UsageError
from prepo_cli.sections import (
    EMBEDDED,
    LARGEST_COUNT,
    EngineConfig,
    ModelConfig,
    PromptsConfig,
    RewardConfig,
    Seed,
    Temperature,
    held_out_of,
)

if TYPE_CHECKING:
    from prepo_cli.data.loading import PromptDataset

DEFAULT_LENGTHS = (2560, 1024)
"""Tokens of a completion, and the minimum room for a prompt; with less context, completions get half of it."""
EMBEDDED_LENGTHS = (96, 32)
"""Of the embedded model: completions as long as those of its training."""
GREEDY = "temperature 0 is greedy decoding: using 1 sample per prompt, since all would be equal"
DEFAULT_CONTEXT = 32768
"""Assumed of a model that states no limit."""
MODEL_FILES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"})
DIGEST_BYTES = 2**20


class SamplingConfig(PromptsConfig):
    """Whose answers to which prompts are sampled how, and how they are judged."""

    answer_column: str | None = None
    model: ModelConfig = Field(default_factory=ModelConfig)
    k: int = Field(16, ge=1, le=2**16, description="samples per prompt")
    temperature: Temperature = Field(1.0, description="0 is greedy decoding, with one sample per prompt")
    top_p: float = Field(1.0, gt=0, le=1)
    max_completion_length: int | None = Field(
        None, ge=1, le=2**24, description="tokens; by default what fits the model"
    )
    max_prompt_length: int | None = Field(None, ge=1, le=2**24, description="tokens; longer prompts are left out")
    rewards: RewardConfig = Field(default_factory=RewardConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    seed: Seed = 0

    @model_validator(mode="after")
    def _greedy_is_one_sample(self) -> Self:
        if self.temperature == 0:
            self.__dict__["k"] = 1
        return self

    def with_lengths(self, context: int | None) -> Self:
        """The configuration with both lengths set to fit a context of that many tokens.

        Raises:
            UsageError: no room is left for a prompt.
        """
        context = context or DEFAULT_CONTEXT
        completion = self.max_completion_length
        if completion is None:
            embedded = self.model.model_name_or_path == EMBEDDED
            completion, prompt_room = EMBEDDED_LENGTHS if embedded else DEFAULT_LENGTHS
            if context < completion + prompt_room:
                completion = max(1, context // 2)
        room = context - completion
        if room < 1:
            raise UsageError(
                f"--max-completion-length {completion} leaves no room for a prompt in the model's "
                f"context of {context} tokens; reduce it"
            )
        prompt = min(self.max_prompt_length or room, room)
        return self.model_copy(update={"max_completion_length": completion, "max_prompt_length": prompt})


class ScoringConfig(PromptsConfig):
    """All settings of `prepo score-ppl`."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    scope: Literal["question", "prompt"] = "question"
    max_prompt_length: int | None = Field(None, ge=1, le=2**24, description="tokens; longer prompts get no perplexity")
    batch_tokens: int = Field(16384, ge=1, le=2**40, description="padded tokens per forward pass")
    engine: EngineConfig = Field(default_factory=EngineConfig)
    output: Path


class EvalConfig(SamplingConfig):
    """All settings of `prepo eval`."""

    split: str = "test"
    holdout: float = Field(0, ge=0, le=0.5, description="only the prompts that a run with this share holds out")
    holdout_limit: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="at most so many of these")
    output_dir: str

    @property
    def prompts_name(self) -> str:
        """What the evaluated prompts are called."""
        return held_out_of(self.dataset_name) if self.holdout else self.dataset_name


class PassRateConfig(SamplingConfig):
    """All settings of `prepo score-passrate`."""

    k: int = Field(8, ge=1, le=2**16, description="samples per prompt")
    output: Path


def fingerprint(config: SamplingConfig, model_folder: str, dataset: PromptDataset) -> str:
    """Hex digest of the settings, the model's files and the dataset's rows; batch size and workers are left out."""
    settings = config.model_dump(mode="json", exclude={"output_dir", "output", "engine"})
    settings["engine"] = config.engine.name
    for name in ("workers", "memory_gb"):
        settings["rewards"].pop(name)
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    digest_model(digest, Path(model_folder))
    for row in range(len(dataset)):
        content = [dataset.prompt(row).id, dataset.messages(row), dataset.answer(row)]
        digest.update(json.dumps(content, default=str).encode())
    return digest.hexdigest()


def digest_model(digest: hashlib.blake2b, folder: Path) -> None:
    """Add the size, start and end of each model file: training changes these, and reading 100 GB takes minutes."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in MODEL_FILES:
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(DIGEST_BYTES))
                file.seek(max(0, size - DIGEST_BYTES))
                digest.update(file.read(DIGEST_BYTES))
