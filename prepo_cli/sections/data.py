"""Model and prompts: what is trained, and on what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from prepo_cli.sections.base import LARGEST_COUNT, MayChange, Section, Seed

EMBEDDED = "embedded"


def is_embedded(dataset: str) -> bool:
    """Whether a dataset's name means the embedded task, with or without options such as `embedded:dead=0.8`."""
    return dataset.partition(":")[0] == EMBEDDED


def held_out_of(dataset: str) -> str:
    """Name of the prompts that a run holds out from its training set."""
    return f"held-out prompts of {dataset}"


class ModelConfig(Section):
    """The policy."""

    model_name_or_path: str = Field(EMBEDDED, description="Hub name, folder, or 'embedded'")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype of weights and computation")
    attn_implementation: MayChange[str | None] = Field(
        None, description="attention implementation of transformers: eager, sdpa or flash_attention_2"
    )
    gradient_checkpointing: MayChange[bool] = Field(
        False, description="recompute activations in the backward pass, which saves memory but takes time"
    )
    trust_remote_code: bool = Field(False, description="run Python code that ships with the model")
    use_peft: bool = Field(False, description="train LoRA adapters and freeze the base weights")
    lora_r: int = Field(16, ge=1, le=2**16, description="LoRA rank")
    lora_alpha: float = Field(
        32.0, gt=0, le=1e6, description="LoRA scaling: adapters are multiplied by lora_alpha / lora_r"
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapters' input")
    lora_target_modules: str | list[str] = Field(
        "all-linear", description="modules that get adapters: all-linear, a list of names, or a regular expression"
    )


class PromptsConfig(Section):
    """Which prompts of which dataset, and how they are rendered."""

    dataset_name: str = Field(
        EMBEDDED, description="file, folder, short name, Hub name, 'embedded' or embedded:dead=0.8"
    )
    split: str = Field("train", description="split of the dataset")
    limit: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="use only the first N rows")
    prompt_column: str | None = Field(
        None, description="column with the prompts; by default prompt, question, problem or messages"
    )
    skip_bad_rows: bool = Field(False, description="skip and count unusable rows")
    system_prompt: str | None = Field(None, description="system message prepended to every prompt")
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="chat template arguments, such as enable_thinking: false"
    )


class DataConfig(PromptsConfig):
    """The training set."""

    dataset_config: str | None = Field(None, description="configuration name of a Hub dataset")
    answer_column: str | None = Field(
        None,
        description="column with the gold answers; by default the first with a known name, such as answer or solution",
    )
    seed: Seed | None = Field(None, description="seed of the prompt order; by default the run's seed")
    max_prompt_length: int = Field(
        2048, ge=1, le=2**24, description="maximum tokens per prompt; longer prompts are left out and counted"
    )
    charge_pass_rates: bool = Field(
        False, description="charge the run for the rollouts behind stored pass rates that a strategy reads"
    )
