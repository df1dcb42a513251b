"""The section `prepo` of verl's configuration, and what of the rest of that configuration the adapter cannot run with.

prepo:
  recipe: greso          # or a recipe's file; the slots below change what it sets
  selector: ...          # budget, filter, weighting, temperature_schedule
  max_rounds: 10

A recipe alone may be written `prepo: greso`. Without that section the environment variable PREPO_CONFIG holds the same
as YAML: PREPO_CONFIG=greso, or PREPO_CONFIG='{recipe: greso, max_rounds: 5}'.
"""

from __future__ import annotations

import os
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prepo_cli.errors import UsageError, one_line
from strategies import StrategySet
from strategies.base import SLOTS
from strategies.errors import fault
from strategies.registry import did_you_mean

VARIABLE = "PREPO_CONFIG"


class Settings(BaseModel):
    """What `prepo` may set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: str | None = Field(None, description="a recipe by name or file")
    selector: str | None = None
    budget: str | None = None
    filter: str | None = None
    weighting: str | None = None
    temperature_schedule: str | None = None
    max_rounds: int = Field(10, ge=1, le=10_000, description="maximum rounds of rollouts per step to fill its batch")
    correct_reward: float = Field(1.0, ge=-1e9, le=1e9, description="a rollout with this accuracy or reward is correct")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="of the strategies; by default data.seed, else 0")

    @property
    def given(self) -> dict[str, str]:
        """The recipe and the slots that are set."""
        values = {name: getattr(self, name) for name in ("recipe", *SLOTS)}
        return {name: value for name, value in values.items() if value is not None}


def read_settings(config: DictConfig) -> Settings:
    """The settings in `config`, else in the environment.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    where, content = "prepo", config.get("prepo", None)
    if content is None and VARIABLE in os.environ:
        where, content = VARIABLE, _parsed(os.environ[VARIABLE])
    if OmegaConf.is_config(content):
        content = OmegaConf.to_container(content, resolve=True)
    if content is None or isinstance(content, str):
        content = {"recipe": content}
    if not isinstance(content, dict):
        raise UsageError(f"{where} must be a recipe, or keys and values such as {{recipe: greso}}, not {content}")
    for key in content:
        if key not in Settings.model_fields:
            known = list(Settings.model_fields)
            raise UsageError(
                f"unknown key '{key}' in {where}{did_you_mean(str(key), known)}; known: {', '.join(known)}"
            )
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{where}.{first['loc'][0]}={first['input']!r}: {fault(first)}") from error


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{VARIABLE} is not YAML: {one_line(error)}; write {VARIABLE}='{{recipe: greso}}'") from error


def refuse(config: DictConfig) -> None:
    """Refuse what the adapter cannot run with.

    Raises:
        UsageError: rewards come too late, or verl itself filters, replays or splits batches.
    """
    reward_model = config.reward.reward_model
    if reward_model.enable and not reward_model.enable_resource_pool:
        raise UsageError(
            "strategies need each rollout's reward before the batch is chosen, which a colocated reward model scores "
            "after it; set reward.reward_model.enable_resource_pool=True, or use a rule"
        )
    if config.algorithm.filter_groups.enable:
        raise UsageError(
            "algorithm.filter_groups and prepo both filter groups; set prepo.filter=nonzero-variance alone"
        )
    if config.trainer.v1.sampler.sync_refill_failed_groups:
        raise UsageError(
            "trainer.v1.sampler.sync_refill_failed_groups belongs to verl's own replay buffer; leave it off: "
            "with a filter that refills, prepo replaces failed groups as well"
        )
    if config.trainer.v1.sync.get("parameter_sync_step", 1) != 1:
        raise UsageError("trainer.v1.sync.parameter_sync_step splits a step's batch; leave it at 1")
    if config.skip.rollout_tq.enable:
        raise UsageError("skip.rollout_tq replays stored rollouts, which no strategy chose; turn it off")


def refuse_strategies(strategies: StrategySet, config: DictConfig) -> None:
    """Refuse weights that would be lost in this configuration.

    Raises:
        UsageError: the weighting needs entropies that verl does not compute, or the loss averages advantages.
    """
    weighting = strategies.weighting
    correction = config.algorithm.get("rollout_correction", None)
    if weighting.needs_entropy and correction is not None and correction.get("bypass_mode", False):
        raise UsageError(
            f"weighting '{weighting.name}' needs entropies, which verl does not compute with "
            "algorithm.rollout_correction.bypass_mode=True; set it to False, or choose another weighting"
        )
    loss = config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla")
    if weighting.name != "uniform" and loss == "geo_mean":
        raise UsageError(
            f"loss_mode=geo_mean averages the advantages of a rollout's tokens, so weighting '{weighting.name}' would "
            "be lost; set actor_rollout_ref.actor.policy_loss.loss_mode=vanilla, or leave the weighting uniform"
        )
