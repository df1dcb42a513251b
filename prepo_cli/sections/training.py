"""Rollouts per step, optimizer, loss, checkpoints and the costs that end a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from prepo_cli.losses import LOSSES
from prepo_cli.sections.base import LARGEST_COUNT, Limit, MayChange, Section
from strategies.registry import did_you_mean

COST_LIMITS = ("max_rollouts", "max_tokens", "max_seconds")
"""Settings of `training` that limit a run's cost."""
MOST_ROLLOUTS = 2**22
"""Rollouts per step, on average; more would not fit in any machine's memory."""


class TrainingConfig(Section):
    """Rollouts per step, optimizer, loss and checkpoints."""

    total_steps: Limit[int | None] = Field(
        200, ge=1, le=LARGEST_COUNT, description="number of training steps; by default none if a cost limit is set"
    )
    max_rollouts: Limit[int | None] = Field(
        None, ge=1, le=LARGEST_COUNT, description="stop after the step that reaches this many rollouts"
    )
    max_tokens: Limit[int | None] = Field(
        None, ge=1, le=10**18, description="stop after the step that reaches this many generated and scored tokens"
    )
    max_seconds: Limit[float | None] = Field(
        None,
        gt=0,
        le=LARGEST_COUNT,
        description="stop after the step that reaches this training time in seconds, excluding evaluations",
    )
    prompts_per_step: int = Field(256, ge=1, le=2**20, description="prompts (groups) per training batch (K)")
    num_generations: int = Field(8, ge=2, le=2**16, description="mean number of rollouts per prompt (G)")
    max_completion_length: int = Field(
        2560, ge=1, le=2**24, description="maximum tokens per completion; longer ones are cut off"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling: keep the most probable tokens up to this total probability"
    )
    max_rounds: int = Field(10, ge=1, le=10_000, description="maximum rounds of rollouts per step to fill its batch")
    learning_rate: float = Field(1e-6, gt=0, le=1, description="AdamW's learning rate, after warm-up")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after warm-up: constant, or falling to 0 over the run"
    )
    warmup_steps: int = Field(0, ge=0, le=LARGEST_COUNT, description="steps over which the learning rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, le=10, description="AdamW's decoupled weight decay")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay rate for the mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay rate for the mean of squared gradients")
    adam_epsilon: float = Field(1e-8, gt=0, le=1, description="added to AdamW's denominator")
    max_grad_norm: float = Field(1.0, gt=0, le=1e9, description="gradient clipping: maximum gradient norm")
    loss_type: str = Field("dapo", description=f"how token losses are averaged: {', '.join(LOSSES)}")
    epsilon: float = Field(0.2, ge=0, lt=1, description="lower clip range")
    epsilon_high: float = Field(0.28, ge=0, le=1e6, description="upper clip range")
    beta: float = Field(
        0.0, ge=0, le=1e3, description="weight of the KL penalty towards the initial policy; 0 loads no reference model"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="divide advantages by the standard deviation of the group, of the batch, or not at all"
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="clip importance ratios per token (PPO) or per sequence (GSPO)"
    )
    mask_truncated_completions: bool = Field(False, description="exclude truncated completions from the loss")
    num_iterations: int = Field(1, ge=1, le=1000, description="optimization passes over each batch")
    max_skipped_steps: MayChange[int] = Field(
        5,
        ge=1,
        le=10_000,
        description="stop after this many updates in a row with a loss or gradient that is not finite",
    )
    mini_batch_prompts: int | None = Field(
        None, ge=1, le=2**20, description="groups per optimizer step; by default all"
    )
    max_tokens_per_micro_batch: MayChange[int] = Field(
        16384, ge=1, le=2**40, description="padded tokens per forward and backward pass"
    )
    save_steps: MayChange[int] = Field(50, ge=1, le=LARGEST_COUNT, description="save a checkpoint every N steps")
    save_total_limit: MayChange[int | None] = Field(
        2, ge=1, le=LARGEST_COUNT, description="number of checkpoints to keep"
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="bf16: weights in float32, matrix products in bfloat16"
    )
    fsdp: MayChange[bool] = Field(
        False, description="FSDP: shard weights, gradients and optimizer state across all processes"
    )

    @model_validator(mode="after")
    def _some_limit(self) -> TrainingConfig:
        if self.total_steps is None and all(getattr(self, limit) is None for limit in COST_LIMITS):
            raise ValueError(
                "the run would never end; set training.total_steps, max_rollouts, max_tokens or max_seconds"
            )
        return self

    @model_validator(mode="after")
    def _fits_in_memory(self) -> TrainingConfig:
        rollouts = self.prompts_per_step * self.num_generations
        if rollouts > MOST_ROLLOUTS:
            raise ValueError(
                f"training.prompts_per_step x training.num_generations is {rollouts:,} rollouts per step; "
                f"reduce one of them so that it is at most {MOST_ROLLOUTS:,}"
            )
        return self

    @field_validator("loss_type")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            raise ValueError(
                f"unknown training.loss_type '{name}'{did_you_mean(name, LOSSES)}; known: {', '.join(LOSSES)}"
            )
        return name
