"""Engines that generate rollouts: a table by name, and `build_engine` for the configured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prepo_cli.engines.base import Engine
    from prepo_cli.policy.policy import ModelSpec, Policy
    from prepo_cli.sections import EngineConfig, ModelConfig


def _hf() -> type[Engine]:
    from prepo_cli.engines.hf import HfEngine

    return HfEngine


def _vllm() -> type[Engine]:
    from prepo_cli.engines.vllm import VllmEngine

    return VllmEngine


def _vllm_server() -> type[Engine]:
    from prepo_cli.engines.vllm_server import VllmServerEngine

    return VllmServerEngine


@dataclass(frozen=True)
class EngineEntry:
    """An engine by name. Its class, imported by `load`, says what it can do before any model is loaded.

    `package` is the installed package, besides transformers, that rollouts depend on.
    """

    load: Callable[[], type[Engine]]
    description: str
    package: str | None = None


ENGINES = {
    "hf": EngineEntry(_hf, "transformers in process"),
    "vllm": EngineEntry(_vllm, "vLLM in process", package="vllm"),
    "vllm-server": EngineEntry(_vllm_server, "a running vLLM server"),
}
"""To add an engine, add an entry here and its name to `EngineConfig.name`."""


def build_engine(
    config: EngineConfig,
    model: Policy | ModelSpec,
    model_config: ModelConfig,
    *,
    max_context: int,
    seed: int,
    sync_dir: Path,
    num_processes: int = 1,
    is_main: bool = True,
) -> Engine:
    """The configured engine, for this process; `EngineSetup` explains the arguments.

    Raises:
        UsageError: the engine is not installed, not reachable or not set up correctly.
    """
    from prepo_cli.engines.base import EngineSetup
    from prepo_cli.engines.idle import IdleEngine

    chosen = ENGINES[config.name].load()
    if chosen.serves_all and not is_main:
        chosen = IdleEngine
    return chosen.build(
        EngineSetup(
            config=config,
            model=model,
            model_config=model_config,
            max_context=max_context,
            seed=seed,
            sync_dir=sync_dir,
            num_processes=num_processes,
        )
    )
