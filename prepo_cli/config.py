"""The configuration of a run: pydantic models, YAML layers and overrides.

Layers, later ones win: defaults, the embedded preset (for the embedded model), the recipe, `--config` files, flags,
`--set section.key=value`. An unknown key is an error that names the nearest known one. Without a recipe and without
any slot the recipe is prepo; slots without a recipe start from the plain ones. `recipe` names what came out: a
recipe whose slots these are, else `custom`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prepo_cli.errors import UsageError
from strategies.base import SLOTS
from strategies.registry import companions, did_you_mean, validate

EMBEDDED = "embedded"
ASSETS = Path(__file__).parent / "assets"
DEFAULT_RECIPE = "prepo"
CUSTOM = "custom"
SLOT_DEFAULTS = {
    "selector": "random",
    "budget": "uniform",
    "filter": "keep-all",
    "weighting": "uniform",
    "temperature_schedule": "constant",
}


class Section(BaseModel):
    """Base of all sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ModelConfig(Section):
    """The policy."""

    model_name_or_path: str = Field(EMBEDDED, description="hub name, folder, or 'embedded'")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of weights and compute")
    attn_implementation: str | None = Field(None, description="as in transformers: eager, sdpa, flash_attention_2")
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    use_peft: bool = Field(False, description="train LoRA adapters and leave the weights as they are")
    lora_r: int = Field(16, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(32.0, gt=0, description="adapters are scaled by lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_target_modules: str | list[str] = Field("all-linear", description="names of the layers that get adapters")


class DataConfig(Section):
    """The training set."""

    dataset_name: str = Field(EMBEDDED, description="file, folder, short name, hub name, or 'embedded'")
    dataset_config: str | None = Field(None, description="configuration of a hub dataset")
    split: str = "train"
    limit: int | None = Field(None, ge=1, description="take the first rows only")
    prompt_column: str | None = None
    answer_column: str | None = None
    skip_bad_rows: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="given to the chat template: enable_thinking: false"
    )
    seed: int | None = Field(None, ge=0, description="of the order of the prompts; the run's by default")
    max_prompt_length: int = Field(2048, ge=1, description="tokens; longer prompts are left out and counted")


class RewardConfig(Section):
    """How completions are judged."""

    functions: list[str] = Field(["math"], min_length=1, description="math, exact, boxed or package.module:function")
    weights: list[float] | None = Field(None, description="one for each function; 1 each by default")
    correct_reward: float = Field(1.0, description="a rollout whose reward is at least this counts as correct")
    timeout_s: float = Field(5.0, gt=0, description="for one completion; a hanging one is worth 0")
    workers: int | None = Field(None, ge=1, description="processes; by default the cores, at most 8")

    @model_validator(mode="after")
    def _one_weight_each(self) -> RewardConfig:
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ValueError(f"{len(self.weights)} weights for {len(self.functions)} functions")
        return self


class StrategiesConfig(Section):
    """The five slots, each a strategy spec such as 'ppl-schedule:ratio=0.2'."""

    selector: str
    budget: str
    filter: str
    weighting: str
    temperature_schedule: str


class TrainingConfig(Section):
    """The optimisation."""

    total_steps: int = Field(200, ge=1)
    prompts_per_step: int = Field(256, ge=1, description="groups in a training batch (K)")
    num_generations: int = Field(8, ge=2, description="rollouts for each prompt, on average (G)")
    max_completion_length: int = Field(2560, ge=1, description="tokens")
    top_p: float = Field(1.0, gt=0, le=1)
    max_rounds: int = Field(10, ge=1, description="rounds of rollouts a step may take to fill its batch")
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    epsilon: float = Field(0.2, ge=0, lt=1, description="lower clip range")
    epsilon_high: float = Field(0.28, ge=0, description="upper clip range")
    beta: float = Field(0.0, ge=0, description="weight of the KL term to the starting policy; 0 keeps no reference")
    scale_rewards: Literal["group", "batch", "none"] = "group"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    mask_truncated_completions: bool = False
    num_iterations: int = Field(1, ge=1, description="passes over each batch")
    mini_batch_prompts: int | None = Field(None, ge=1, description="groups for each optimiser step; all by default")
    max_tokens_per_micro_batch: int = Field(16384, ge=1, description="padded tokens of one forward and backward")
    save_steps: int = Field(50, ge=1)
    save_total_limit: int | None = Field(2, ge=1, description="checkpoints kept")
    mixed_precision: Literal["no", "bf16"] = "no"
    fsdp: bool = Field(False, description="shard weights, gradients and optimiser state over all processes")


class EngineConfig(Section):
    """What generates."""

    name: Literal["hf", "vllm", "vllm-server"] = Field(
        "hf", description="hf: transformers in process; vllm: vLLM in process; vllm-server: a server that runs already"
    )
    max_batch_tokens: int = Field(131072, ge=1, description="hf: bound on rows x context in one decoding batch")
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="vllm: share of the GPU's memory")
    vllm_tensor_parallel_size: int = Field(1, ge=1, description="vllm: GPUs that one engine is spread over")
    vllm_max_model_length: int | None = Field(None, ge=2, description="vllm: context; by default what the run needs")
    vllm_max_num_seqs: int = Field(256, ge=1, description="vllm: rollouts that decode together")
    vllm_enforce_eager: bool = Field(False, description="vllm: no compilation and no CUDA graphs")
    vllm_enable_sleep_mode: bool = Field(True, description="vllm: give its memory to the update (GPUs only)")
    vllm_server_base_url: str = Field("http://127.0.0.1:8000", description="vllm-server: where it listens")
    vllm_server_timeout_s: float = Field(240.0, gt=0, description="vllm-server: how long it may be away")
    vllm_weight_sync: Literal["auto", "nccl", "disk"] = Field(
        "auto", description="vllm-server: how it gets new weights; auto takes nccl on GPUs, else disk"
    )
    vllm_sync_dir: str | None = Field(None, description="vllm-server: folder both see; by default in the run folder")
    vllm_importance_sampling_mode: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field("token_truncate", description="correction for the gap between the engine's log-probs and the trainer's")
    vllm_importance_sampling_cap: float = Field(2.0, ge=1, description="largest ratio of trainer to engine")
    vllm_max_logp_difference: float = Field(
        0.5, gt=0, description="mean gap of log-probs to the trainer's over a step; more stops the run"
    )


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    dataset_name: str | None = Field(None, description="none by default; the embedded test split for the embedded task")
    split: str = "test"
    limit: int | None = Field(None, ge=1)
    num_samples: int = Field(16, ge=1, description="k of avg@k")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    eval_steps: int | None = Field(None, ge=1, description="also every so many steps")
    at_start: bool = True
    at_end: bool = True


class ReportingConfig(Section):
    """What is written besides the metrics."""

    log_rollouts: bool = Field(True, description="rollouts/step_*.parquet")
    figures: bool = Field(True, description="learning curve as PNG")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list, description="trackers that get every metric, besides metrics.jsonl"
    )
    project: str = Field("prepo", description="of the trackers")
    run_name: str | None = Field(None, description="in the trackers; by default the run folder's name")
    push_to_hub: bool = Field(False, description="upload the final model with its card")
    hub_model_id: str | None = Field(None, description="owner/name on the hub; needed to push")
    hub_private_repo: bool = False


class RunConfig(Section):
    """All of a run. `prepo train` writes it, resolved, to the run folder as config.yaml."""

    recipe: str = DEFAULT_RECIPE
    seed: int = Field(0, ge=0)
    output_dir: str = Field("", description="run folder; runs/<recipe>-seed<seed> by default")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    rewards: RewardConfig = Field(default_factory=RewardConfig)
    strategies: StrategiesConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    reporting: ReportingConfig = Field(default_factory=ReportingConfig)

    @property
    def compute_dtype(self) -> str:
        """What products are computed in: the weights' own, or bfloat16 with mixed precision."""
        return "bfloat16" if self.training.mixed_precision == "bf16" else self.model.dtype

    @model_validator(mode="after")
    def _refuse_float16(self) -> RunConfig:
        if self.model.dtype == "float16":
            raise ValueError(
                "model.dtype=float16: AdamW's updates vanish in float16 weights; train bfloat16 or float32 ones, the "
                "latter with training.mixed_precision=bf16 if memory is short"
            )
        return self

    @model_validator(mode="after")
    def _name_the_folder(self) -> RunConfig:
        if not self.output_dir:
            self.__dict__["output_dir"] = f"runs/{self.recipe}-seed{self.seed}"
        return self


def resolve(files: Sequence[Path] = (), flags: Mapping[str, Any] | None = None, sets: Sequence[str] = ()) -> RunConfig:
    """Merge all layers into one checked configuration.

    Args:
        files: YAML files of `--config`, later ones win.
        flags: dotted key -> value; None means not given.
        sets: `section.key=value` items of `--set`.

    Raises:
        UsageError: unreadable file, unknown key, bad value; StrategyError: a slot names no known strategy.
    """
    given: dict[str, Any] = {}
    for path in files:
        merge(given, read_yaml(path))
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(given, key, value)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: write section.key=value, for example training.learning_rate=1e-5")
        _assign(given, key.strip(), _yaml_value(text, item))
    _refuse_unknown(given, RunConfig)

    layers: dict[str, Any] = {}
    if _get(given, "model.model_name_or_path", EMBEDDED) == EMBEDDED:
        merge(layers, read_yaml(ASSETS / "embedded.yaml"))
        if _get(given, "data.dataset_name", EMBEDDED) != EMBEDDED:
            layers.pop("evaluation", None)
    chosen = dict(given.get("strategies") or {})
    name = str(given.get("recipe") or (CUSTOM if chosen else DEFAULT_RECIPE))
    recipe = {} if name == CUSTOM else read_yaml(recipe_path(name))
    slots = _resolve_slots(recipe.pop("strategies", {}), chosen)
    merge(layers, recipe)
    merge(layers, given)
    for slot, text in slots.items():
        if slot in SLOTS:
            validate(slot, text)
    layers |= {"strategies": slots, "recipe": _recipe_of(slots, name)}
    try:
        return RunConfig.model_validate(layers)
    except ValidationError as error:
        raise UsageError(validation_message(error)) from error


def section_of(name: str, sets: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` of one section with `--set name.key=value` items laid over; raises UsageError for other sections."""
    given: dict[str, Any] = {name: dict(settings)}
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals or not key.startswith(f"{name}."):
            raise UsageError(f"--set {item}: this command takes --set {name}.key=value only; the rest are flags")
        _assign(given, key.strip(), _yaml_value(text, item))
    _refuse_unknown(given, RunConfig)
    section: dict[str, Any] = given[name]
    return section


def template_arguments(items: Sequence[str]) -> dict[str, Any]:
    """`--template-arg key=value` items as the chat template is given them; raises UsageError for another form."""
    for item in items:
        if "=" not in item:
            raise UsageError(f"--template-arg {item}: write key=value, for example enable_thinking=false")
    return {key.strip(): _yaml_value(text, f"{key}={text}") for key, _, text in (i.partition("=") for i in items)}


def recipes() -> dict[str, Path]:
    """Names and files of all recipes."""
    here = Path(__file__).parent
    folder = next(d for d in (here / "recipes", here.parent / "examples" / "recipes") if d.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a recipe; raises UsageError with the nearest name."""
    known = recipes()
    if name not in known:
        raise UsageError(f"no recipe '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}")
    return known[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises UsageError if there is none."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no mapping of sections")
    return loaded


def write_yaml(path: Path, config: BaseModel) -> None:
    """The configuration as YAML, in the order of its fields."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay `layer` over `into`, section by section."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def validation_message(error: ValidationError) -> str:
    """The first fault of a pydantic error as one line."""
    first = error.errors()[0]
    if not first["loc"]:  # about several settings, which the message names
        return first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}={json.dumps(first['input'], default=str)}: {first['msg']}"


def _resolve_slots(recipe: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Defaults, then the recipe, then companions of what the user set, then what the user set.

    A selector that the user sets replaces the recipe's whole bundle only in its own slot.
    """
    slots = {**SLOT_DEFAULTS, **recipe}
    for layer in (recipe, given):
        for slot, text in layer.items():
            if slot in SLOTS:
                for other, brought in companions(slot, str(text)).items():
                    if other not in layer and not (layer is recipe and other in given):
                        slots[other] = brought
        slots.update({slot: str(text) for slot, text in layer.items()})
    return slots


def _recipe_of(slots: dict[str, str], asked: str) -> str:
    """The recipe with exactly these slots, the one asked for first; `custom` if there is none."""
    for name in sorted(recipes(), key=lambda name: name != asked):
        if _resolve_slots(read_yaml(recipe_path(name)).get("strategies", {}), {}) == slots:
            return name
    return CUSTOM


def _refuse_unknown(given: Mapping[str, Any], model: type[BaseModel], place: str = "") -> None:
    for key, value in given.items():
        fields = model.model_fields
        if key not in fields:
            hint = did_you_mean(key, fields) or _elsewhere(key)
            raise UsageError(f"unknown setting '{place}{key}'{hint}; known: {', '.join(fields)}")
        kind = fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise UsageError(f"'{place}{key}' is a section: write {place}{key}.<setting>")
            _refuse_unknown(value, kind, f"{place}{key}.")


def _elsewhere(key: str) -> str:
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return f", did you mean '{name}.{key}'?"
    return ""


def _assign(into: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        into = into.setdefault(section, {})
        if not isinstance(into, dict):
            raise UsageError(f"'{dotted}': '{section}' is not a section")
    into[key] = value


def _get(given: Mapping[str, Any], dotted: str, default: Any) -> Any:
    value: Any = given
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def _yaml_value(text: str, item: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {item} is not readable YAML: {' '.join(str(error).split())}") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value
