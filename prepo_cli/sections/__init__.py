"""All settings: the sections of a run's configuration as pydantic models with defaults, bounds and descriptions.

How files, recipes, flags and `--set` are merged is in config.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from prepo_cli.sections.base import ENDS_RUN, LARGEST_COUNT, MAY_CHANGE, MayChange, Section, Seed, Temperature
from prepo_cli.sections.data import EMBEDDED, DataConfig, ModelConfig, PromptsConfig, is_embedded
from prepo_cli.sections.engine import EngineConfig
from prepo_cli.sections.rewards import VERDICTS, RewardConfig
from prepo_cli.sections.training import COST_LIMITS, TrainingConfig

__all__ = [
    "COST_LIMITS",
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
    "is_embedded",
]

DEFAULT_RECIPE = "prepo"


class StrategiesConfig(Section):
    """The five slots, each a strategy spec such as 'ppl-schedule:ratio=0.2'."""

    selector: str
    budget: str
    filter: str
    weighting: str
    temperature_schedule: str


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    dataset_name: str | None = Field(None, description="default: none, or embedded when training on the embedded task")
    split: str = "test"
    limit: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="use only the first rows")
    num_samples: int = Field(16, ge=1, le=2**16, description="k of avg@k")
    temperature: Temperature = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    eval_steps: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="evaluate every this many steps as well")
    eval_rollouts: int | None = Field(
        None, ge=1, le=LARGEST_COUNT, description="evaluate every this many rollouts as well"
    )
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

    recipe: MayChange[str] = Field(DEFAULT_RECIPE, description="a label: the strategies are what counts")
    seed: Seed = 0
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
