"""All settings: the sections of a run's configuration as pydantic models with defaults, bounds and descriptions.

How files, recipes, flags and `--set` are merged is in config.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from prepo_cli.sections.base import ENDS_RUN, LARGEST_COUNT, MAY_CHANGE, MayChange, Section, Seed, Temperature
from prepo_cli.sections.data import EMBEDDED, DataConfig, ModelConfig, PromptsConfig, held_out_of, is_embedded
from prepo_cli.sections.engine import EngineConfig
from prepo_cli.sections.rewards import VERDICTS, RewardConfig
from prepo_cli.sections.training import COST_LIMITS, TrainingConfig

__all__ = [
    "COST_LIMITS",
    "DEFAULT_HOLDOUT",
    "DEFAULT_HOLDOUT_LIMIT",
    "DEFAULT_RECIPE",
    "EMBEDDED",
    "ENDS_RUN",
    "LARGEST_COUNT",
    "MAY_CHANGE",
    "VERDICTS",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "MayChange",
    "ModelConfig",
    "PromptsConfig",
    "ReportingConfig",
    "RewardConfig",
    "RunConfig",
    "Section",
    "Seed",
    "StrategiesConfig",
    "Temperature",
    "TrainingConfig",
    "held_out_of",
    "is_embedded",
]

DEFAULT_RECIPE = "prepo"
DEFAULT_HOLDOUT, DEFAULT_HOLDOUT_LIMIT = 0.05, 500
"""Share of the user's own training prompts that is held out, and how many of them are evaluated."""


class StrategiesConfig(Section):
    """The five slots, each a strategy spec such as 'ppl-schedule:ratio=0.2'; by default the recipe's."""

    selector: str = Field(description="which prompts to roll out")
    budget: str = Field(description="how many rollouts each prompt gets")
    filter: str = Field(description="which rollouts to train on")
    weighting: str = Field(description="how much each rollout or token counts")
    temperature_schedule: str = Field(description="sampling temperature of each step")


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    dataset_name: str | None = Field(
        None,
        description="evaluation set; by default the embedded task's own, else held-out training prompts",
    )
    holdout: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="without an evaluation set: share of training prompts to hold out, at least 50 prompts; "
        f"{DEFAULT_HOLDOUT} by default, 0 for none",
    )
    split: str = Field("test", description="split of the evaluation set")
    limit: int | None = Field(
        None,
        ge=1,
        le=LARGEST_COUNT,
        description=f"use only the first N rows; by default all, or {DEFAULT_HOLDOUT_LIMIT} of a hold-out",
    )
    num_samples: int = Field(16, ge=1, le=2**16, description="samples per prompt: the k of avg@k")
    temperature: Temperature = Field(
        1.0, description="sampling temperature; 0 is greedy decoding, with one sample per prompt"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling: keep the most probable tokens up to this total probability"
    )
    eval_steps: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="also evaluate every N steps")
    eval_rollouts: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="also evaluate every N rollouts")
    at_start: bool = Field(True, description="evaluate before the first step")
    at_end: bool = Field(True, description="evaluate after the last step")

    @property
    def holds_out(self) -> bool:
        """Whether training prompts are held out as the evaluation set."""
        return self.dataset_name is None and bool(self.holdout)

    @model_validator(mode="after")
    def _greedy_is_one_sample(self) -> EvaluationConfig:
        if self.temperature == 0:
            self.__dict__["num_samples"] = 1
        return self


class ReportingConfig(Section):
    """Rollouts, figures, trackers and the Hub."""

    log_rollouts: bool = Field(True, description="write rollouts/step_*.parquet")
    figures: bool = Field(True, description="draw the learning curve as PNG")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field([], description="experiment trackers to log to")
    completions_steps: int | None = Field(
        10, ge=1, le=LARGEST_COUNT, description="send a table of completions to the trackers every N steps"
    )
    project: str = Field("prepo", description="project name in the trackers")
    run_name: str | None = Field(None, description="run name in the trackers; by default the run folder's name")
    push_to_hub: bool = Field(False, description="upload the final model and its card to the Hub")
    hub_model_id: str | None = Field(None, description="Hub repository, owner/name; required to push")
    hub_private_repo: bool = Field(False, description="create the Hub repository as private")


class RunConfig(Section):
    """All settings of a run. `prepo train` writes the resolved configuration to config.yaml in the run folder."""

    recipe: MayChange[str] = Field(
        DEFAULT_RECIPE, description="sets all five slots; on resume only a label, since the strategies stay the same"
    )
    seed: Seed = Field(0, description="seed of all random numbers")
    output_dir: MayChange[str] = Field(
        "", description="run folder", json_schema_extra={"default": "runs/<recipe>-seed<seed>"}
    )
    code_dir: MayChange[str | None] = Field(
        None,
        description="folder with your own strategies and rewards, relative to the run folder; by default the "
        "folder the run is started in",
    )
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
