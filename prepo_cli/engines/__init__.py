"""Engines that generate rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prepo_cli.errors import UsageError

if TYPE_CHECKING:
    from prepo_cli.config import EngineConfig
    from prepo_cli.engines.base import Engine
    from prepo_cli.models import Policy


def build_engine(config: EngineConfig, policy: Policy) -> Engine:
    """The engine that the configuration names."""
    if config.name != "hf":
        raise UsageError(f"engine '{config.name}' is not available in this version; use --engine hf")
    from prepo_cli.engines.hf import HfEngine

    return HfEngine(policy, config.max_batch_tokens)
