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
    temperature_schedule: str = Field(description="the sampling temperature of each step")


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    dataset_name: str | None = Field(
        None, description="the evaluation set; embedded when training on the embedded task, else a hold-out by default"
    )
    holdout: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description=f"without an evaluation set: share of the training prompts held out as one, at least 50 prompts; "
        f"{DEFAULT_HOLDOUT} by default, 0 for none",
    )
    split: str = Field("test", description="split of the evaluation set")
    limit: int | None = Field(
        None,
        ge=1,
        le=LARGEST_COUNT,
        description=f"use only the first rows; by default all, of a hold-out {DEFAULT_HOLDOUT_LIMIT}",
    )
    num_samples: int = Field(16, ge=1, le=2**16, description="k of avg@k")
    temperature: Temperature = Field(
        1.0, description="sampling temperature; 0 is greedy decoding, with one sample per prompt"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample only from the most probable tokens that add up to this probability"
    )
    eval_steps: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="evaluate every this many steps as well")
    eval_rollouts: int | None = Field(
        None, ge=1, le=LARGEST_COUNT, description="evaluate every this many rollouts as well"
    )
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
    """Output besides the metrics."""

    log_rollouts: bool = Field(True, description="write rollouts/step_*.parquet")
    figures: bool = Field(True, description="draw the learning curve as PNG")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [], description="trackers that every metric is copied to"
    )
    completions_steps: int | None = Field(
        10, ge=1, le=LARGEST_COUNT, description="send a table of completions to the trackers every this many steps"
    )
    project: str = Field("prepo", description="the trackers' project")
    run_name: str | None = Field(None, description="the run's name in the trackers; by default the run folder's")
    push_to_hub: bool = Field(False, description="upload the final model with its card")
    hub_model_id: str | None = Field(None, description="owner/name on the Hub; required to push")
    hub_private_repo: bool = Field(False, description="create the Hub repository as a private one")


class RunConfig(Section):
    """All settings of a run. `prepo train` writes the resolved configuration to config.yaml in the run folder."""

    recipe: MayChange[str] = Field(
        DEFAULT_RECIPE, description="sets all five slots; on resume a label, since the strategies are what counts"
    )
    seed: Seed = Field(0, description="of all random numbers")
    output_dir: MayChange[str] = Field(
        "", description="run folder", json_schema_extra={"default": "runs/<recipe>-seed<seed>"}
    )
    code_dir: MayChange[str | None] = Field(
        None,
        description="folder of your own strategies and rewards, relative to the run folder; by default the folder that "
        "the run is started in",
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
