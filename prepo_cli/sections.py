"""All settings: the sections of a run's configuration as pydantic models with defaults, bounds and descriptions.

How files, recipes, flags and `--set` are merged is in config.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prepo_cli.losses import LOSSES
from strategies.registry import did_you_mean

EMBEDDED = "embedded"


def is_embedded(dataset: str) -> bool:
    """Whether a dataset's name means the embedded task, with or without options such as `embedded:dead=0.8`."""
    return dataset.partition(":")[0] == EMBEDDED


COST_LIMITS = ("max_rollouts", "max_tokens", "max_seconds")
"""Settings of `training` that end a run at a cost."""
VERDICTS = ("math", "exact", "boxed")
"""Reward functions that can decide correctness, in order of precedence."""
DEFAULT_RECIPE = "prepo"

T = TypeVar("T")
MAY_CHANGE = "may change on resume"
MayChange = Annotated[T, MAY_CHANGE]
"""Marks a setting, or a whole section, that a resumed run may change: where and how it computes, not what."""


class Section(BaseModel):
    """Base of all sections; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ModelConfig(Section):
    """The policy."""

    model_name_or_path: str = Field(EMBEDDED, description="Hub name, folder, or 'embedded'")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of weights and computation")
    attn_implementation: MayChange[str | None] = Field(
        None, description="as in transformers: eager, sdpa, flash_attention_2"
    )
    gradient_checkpointing: MayChange[bool] = False
    trust_remote_code: bool = False
    use_peft: bool = Field(False, description="train LoRA adapters and freeze the base weights")
    lora_r: int = Field(16, ge=1, description="LoRA rank")
    lora_alpha: float = Field(32.0, gt=0, description="adapters are scaled by lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_target_modules: str | list[str] = Field("all-linear", description="modules that get adapters")


class PromptsConfig(Section):
    """Which prompts of which dataset, and how they are rendered."""

    dataset_name: str = Field(
        EMBEDDED, description="file, folder, short name, Hub name, 'embedded' or embedded:dead=0.8"
    )
    split: str = "train"
    limit: int | None = Field(None, ge=1, description="use only the first rows")
    prompt_column: str | None = None
    skip_bad_rows: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="passed to the chat template, such as enable_thinking: false"
    )


class DataConfig(PromptsConfig):
    """The training set."""

    dataset_config: str | None = Field(None, description="configuration of a Hub dataset")
    answer_column: str | None = None
    seed: int | None = Field(None, ge=0, description="of the prompt order; by default the run's seed")
    max_prompt_length: int = Field(2048, ge=1, description="tokens; longer prompts are left out and counted")
    charge_pass_rates: bool = Field(False, description="charge the rollouts behind pass rates that a strategy reads")


class RewardConfig(Section):
    """How completions are scored, and which of them count as correct.

    The reward is the weighted sum of all functions. Correctness is the verdict of one function on its own scale: other
    functions and weights never change it.
    """

    functions: list[str] = Field(["math"], min_length=1, description="math, exact, boxed or package.module:function")
    weights: list[float] | None = Field(None, description="one per function; 1 each by default")
    verdict: str | None = Field(
        None,
        description="the function that decides correctness; by default the first of math, exact, boxed among them, "
        "else the first",
    )
    correct_reward: float = Field(
        1.0, description="a rollout is correct if the verdict function's own, unweighted value reaches this"
    )
    timeout_s: float = Field(5.0, gt=0, description="for checking one completion; past it the completion is wrong")
    workers: MayChange[int | None] = Field(None, ge=1, description="processes; by default one per core, at most 8")

    @property
    def verdict_function(self) -> str:
        """The function that decides correctness."""
        if self.verdict is not None:
            return self.verdict
        return next((name for name in VERDICTS if name in self.functions), self.functions[0])

    @model_validator(mode="after")
    def _one_weight_each(self) -> RewardConfig:
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ValueError(
                f"rewards.weights: {len(self.weights)} weights for {len(self.functions)} functions; set one weight per "
                "function"
            )
        return self

    @model_validator(mode="after")
    def _verdict_is_a_function(self) -> RewardConfig:
        if self.verdict is not None and self.verdict not in self.functions:
            raise ValueError(
                f"rewards.verdict={self.verdict} is not one of the reward functions: {', '.join(self.functions)}; "
                "choose one of these, or add it to rewards.functions with weight 0"
            )
        return self


class StrategiesConfig(Section):
    """The five slots, each a strategy spec such as 'ppl-schedule:ratio=0.2'."""

    selector: str
    budget: str
    filter: str
    weighting: str
    temperature_schedule: str


class TrainingConfig(Section):
    """Rollouts per step, optimiser, loss and checkpoints."""

    total_steps: int | None = Field(200, ge=1, description="none by default where a cost limit is set")
    max_rollouts: int | None = Field(None, ge=1, description="end with the step that reaches this many rollouts")
    max_tokens: int | None = Field(
        None, ge=1, description="end with the step that reaches this many tokens, generated and scored"
    )
    max_seconds: float | None = Field(
        None, gt=0, description="end with the step that reaches this training time, evaluations not counted"
    )
    prompts_per_step: int = Field(256, ge=1, description="groups in a training batch (K)")
    num_generations: int = Field(8, ge=2, description="rollouts per prompt, on average (G)")
    max_completion_length: int = Field(2560, ge=1, description="tokens")
    top_p: float = Field(1.0, gt=0, le=1)
    max_rounds: int = Field(10, ge=1, description="rounds of rollouts that a step may use to fill its batch")
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    loss_type: str = Field("dapo", description=f"how token losses are averaged: {', '.join(LOSSES)}")
    epsilon: float = Field(0.2, ge=0, lt=1, description="lower clip range")
    epsilon_high: float = Field(0.28, ge=0, description="upper clip range")
    beta: float = Field(
        0.0, ge=0, description="weight of the KL term to the initial policy; 0 loads no reference model"
    )
    scale_rewards: Literal["group", "batch", "none"] = "group"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    mask_truncated_completions: bool = False
    num_iterations: int = Field(1, ge=1, description="passes over each batch")
    mini_batch_prompts: int | None = Field(None, ge=1, description="groups per optimiser step; all by default")
    max_tokens_per_micro_batch: MayChange[int] = Field(
        16384, ge=1, description="padded tokens per forward and backward pass"
    )
    save_steps: MayChange[int] = Field(50, ge=1)
    save_total_limit: MayChange[int | None] = Field(2, ge=1, description="number of checkpoints to keep")
    mixed_precision: Literal["no", "bf16"] = "no"
    fsdp: MayChange[bool] = Field(False, description="shard weights, gradients and optimiser state over all processes")

    @model_validator(mode="after")
    def _some_limit(self) -> TrainingConfig:
        if self.total_steps is None and all(getattr(self, limit) is None for limit in COST_LIMITS):
            raise ValueError("nothing ends the run; set training.total_steps, max_rollouts, max_tokens or max_seconds")
        return self

    @field_validator("loss_type")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            raise ValueError(
                f"unknown training.loss_type '{name}'{did_you_mean(name, LOSSES)}; known: {', '.join(LOSSES)}"
            )
        return name


class EngineConfig(Section):
    """The generation engine."""

    name: Literal["hf", "vllm", "vllm-server"] = Field(
        "hf", description="hf: transformers in process; vllm: vLLM in process; vllm-server: a running vLLM server"
    )
    max_batch_tokens: int = Field(131072, ge=1, description="hf: limit on rows x context in one decoding batch")
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="vllm: share of the GPU's memory")
    vllm_tensor_parallel_size: int = Field(1, ge=1, description="vllm: number of GPUs per engine")
    vllm_max_model_length: int | None = Field(
        None, ge=2, description="vllm: context length in tokens; by default what the run needs"
    )
    vllm_max_num_seqs: int = Field(256, ge=1, description="vllm: rollouts decoded concurrently")
    vllm_enforce_eager: bool = Field(False, description="vllm: disable compilation and CUDA graphs")
    vllm_enable_sleep_mode: bool = Field(True, description="vllm: free its memory during the update (GPUs only)")
    vllm_server_base_url: str = Field("http://127.0.0.1:8000", description="vllm-server: its URL")
    vllm_server_timeout_s: float = Field(
        240.0, gt=0, description="vllm-server: how long to wait for an unreachable server, in seconds"
    )
    vllm_weight_sync: Literal["auto", "nccl", "disk"] = Field(
        "auto", description="vllm-server: how new weights are transferred; auto uses nccl on GPUs, else disk"
    )
    vllm_sync_dir: str | None = Field(
        None, description="vllm-server: folder that trainer and server share; by default in the run folder"
    )
    vllm_importance_sampling_mode: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field("token_truncate", description="correction for the gap between the engine's log-probs and the trainer's")
    vllm_importance_sampling_cap: float = Field(2.0, ge=1, description="upper limit of the ratio trainer / engine")
    vllm_max_logp_difference: float = Field(
        0.5, gt=0, description="largest mean gap over a step between the engine's log-probs and the trainer's"
    )


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    dataset_name: str | None = Field(None, description="default: none, or embedded when training on the embedded task")
    split: str = "test"
    limit: int | None = Field(None, ge=1, description="use only the first rows")
    num_samples: int = Field(16, ge=1, description="k of avg@k")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    eval_steps: int | None = Field(None, ge=1, description="evaluate every this many steps as well")
    eval_rollouts: int | None = Field(None, ge=1, description="evaluate every this many rollouts as well")
    at_start: bool = Field(True, description="evaluate before the first step")
    at_end: bool = Field(True, description="evaluate after the last step")


class ReportingConfig(Section):
    """Output besides the metrics."""

    log_rollouts: bool = Field(True, description="write rollouts/step_*.parquet")
    figures: bool = Field(True, description="draw the learning curve as PNG")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list, description="trackers that every metric is copied to"
    )
    project: str = Field("prepo", description="the trackers' project")
    run_name: str | None = Field(None, description="the run's name in the trackers; by default the run folder's")
    push_to_hub: bool = Field(False, description="upload the final model with its card")
    hub_model_id: str | None = Field(None, description="owner/name on the Hub; required to push")
    hub_private_repo: bool = False


class RunConfig(Section):
    """All settings of a run. `prepo train` writes the resolved configuration to config.yaml in the run folder."""

    recipe: str = DEFAULT_RECIPE
    seed: int = Field(0, ge=0)
    output_dir: MayChange[str] = Field("", description="run folder; runs/<recipe>-seed<seed> by default")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    rewards: RewardConfig = Field(default_factory=RewardConfig)
    strategies: StrategiesConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    engine: MayChange[EngineConfig] = Field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    reporting: MayChange[ReportingConfig] = Field(default_factory=ReportingConfig)

    @property
    def compute_dtype(self) -> str:
        """The dtype of matrix products: the weights' own, or bfloat16 with mixed precision."""
        return "bfloat16" if self.training.mixed_precision == "bf16" else self.model.dtype

    @model_validator(mode="after")
    def _refuse_float16(self) -> RunConfig:
        if self.model.dtype == "float16":
            raise ValueError(
                "model.dtype=float16: AdamW's updates are rounded away in float16 weights; use float32, with "
                "training.mixed_precision=bf16 to save memory, or bfloat16"
            )
        return self

    @model_validator(mode="after")
    def _name_the_folder(self) -> RunConfig:
        if not self.output_dir:
            self.__dict__["output_dir"] = f"runs/{self.recipe}-seed{self.seed}"
        return self
