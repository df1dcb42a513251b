"""Engines that generate rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from prepo_cli.engines.base import Engine, Progress, Request, Rollout
    from prepo_cli.policy.policy import ModelSpec, Policy
    from prepo_cli.sections import EngineConfig, ModelConfig


def build_engine(
    config: EngineConfig,
    subject: Policy | ModelSpec,
    model: ModelConfig,
    *,
    max_context: int,
    seed: int,
    sync_dir: Path,
    num_processes: int = 1,
    is_main: bool = True,
) -> Engine:
    """The engine that the configuration names.

    Args:
        subject: the model with its weights for hf, which generates with them; others load what it names.
        max_context: tokens of the longest prompt with its completion.
        sync_dir: where weights for a server may be put down.
        is_main: whether this process is the one that talks to a server.

    Raises:
        UsageError: the engine is not installed, not there, or not set up as it must be.
    """
    if config.name == "hf":
        from prepo_cli.engines.hf import HfEngine
        from prepo_cli.policy.policy import ModelSpec

        assert not isinstance(subject, ModelSpec)
        return HfEngine(subject, config.max_batch_tokens)
    if config.name == "vllm":
        from prepo_cli.engines.vllm import VllmEngine

        return VllmEngine(
            config,
            model_path=subject.source,
            dtype=model.dtype,
            eos_token_ids=subject.eos_token_ids,
            max_model_len=max_context,
            seed=seed,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            num_processes=num_processes,
        )
    if not is_main:
        return Elsewhere()
    from prepo_cli.engines.vllm_server import VllmServerEngine
    from prepo_cli.policy.loading import model_source

    # A resumed run's weights are a checkpoint's; the server has the model that the run began with.
    served = replace(subject, source=model_source(model.model_name_or_path))
    return VllmServerEngine(config, policy=served, max_model_len=max_context, sync_dir=sync_dir)


class Elsewhere:
    """The engine of a process that generates nothing, since the main process's server does."""

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """No rollouts, as nothing is asked for."""
        assert not requests
        return []

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take part in gathering the weights."""
        for _ in weights:
            pass

    def sleep(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""
