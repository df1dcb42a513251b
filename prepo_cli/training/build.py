"""Build a process's learner: load the models, place them, restore the optimizer and start the engine."""

from __future__ import annotations

from pathlib import Path

import torch

from prepo_cli.distributed import build_layout
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines import build_engine
from prepo_cli.errors import UsageError
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.weights_digest import weights_digest
from prepo_cli.sections import RunConfig
from prepo_cli.training import checkpoint
from prepo_cli.training.learner import Learner
from prepo_cli.training.schedule import refuse_overwriting


def build_learner(config: RunConfig, processes: Processes, resume_from: Path | None) -> Learner:
    """Load the policy, the reference and the optimizer, and start the engine; `resume_from` is a checkpoint.

    Raises:
        UsageError: the model can't be loaded, the learning rate or the lengths don't fit it, or the engine can't be
        used.
    """
    training = config.training
    model, adapters = config.model, None
    if resume_from is not None and model.use_peft:
        adapters = resume_from / "model"
    elif resume_from is not None:
        model = model.model_copy(update={"model_name_or_path": str(resume_from / "model"), "revision": None})
    # A model that will be sharded is loaded on the CPU, so that no GPU ever has to hold all of it.
    device = torch.device("cpu") if processes.sharded else processes.device
    policy = load_policy(model, train=True, device=device, adapters=adapters, seed=config.seed)
    refuse_overwriting(training.learning_rate, [p for p in policy.model.parameters() if p.requires_grad])
    separate_reference = training.beta > 0 and policy.adapter is None
    reference = load_policy(config.model, device=device) if separate_reference else None
    frozen = reference if policy.adapter is None else policy
    frozen_weights = None if frozen is None else weights_digest(frozen.model)  # before they are sharded
    layout = build_layout(policy, processes, training)
    if reference is not None:
        layout.place_reference(reference)
    if resume_from is not None:
        layout.load_optimizer_state(checkpoint.read_optimizer(resume_from))
    engine = build_engine(
        config.engine,
        policy,
        config.model.model_copy(update={"dtype": config.compute_dtype}),
        max_context=longest_prompt(config, policy) + training.max_completion_length,
        seed=config.seed,
        sync_dir=Path(config.output_dir) / "sync",
        num_processes=processes.count,
        is_main=processes.is_main,
    )
    return Learner(config, processes, policy, layout, engine, reference, frozen_weights)


def longest_prompt(config: RunConfig, policy: Policy) -> int:
    """Maximum prompt length in tokens; longer prompts are left out.

    Raises:
        UsageError: completions leave no room for a prompt.
    """
    context, completion = policy.max_context, config.training.max_completion_length
    room = config.data.max_prompt_length
    if context is not None:
        room = min(room, context - completion)
    if room < 1:
        raise UsageError(
            f"training.max_completion_length={completion} leaves no room for a prompt in the "
            f"model's context of {context} tokens; reduce it"
        )
    return room
