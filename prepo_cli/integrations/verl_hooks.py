"""The versions of verl that the adapter is written for, and the methods of verl that it relies on.

Both are checked when the adapter is imported: a version that moved a method is refused before anything is trained.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from prepo_cli.errors import UsageError

OLDEST, BELOW = (0, 9), (0, 10)
SUPPORTED = "verl 0.9"


def check_version(found: str) -> None:
    """Refuse versions outside the supported range.

    >>> check_version("0.9.1")
    >>> check_version("0.10.0")
    Traceback (most recent call last):
    prepo_cli.errors.UsageError: prepo runs inside verl 0.9, and verl 0.10.0 is installed; pip install 'verl==0.9.*'

    Raises:
        UsageError: the version is older or newer.
    """
    release = tuple(int(part) for part in found.split(".")[:2])
    if not OLDEST <= release < BELOW:
        raise UsageError(f"prepo runs inside {SUPPORTED}, and verl {found} is installed; pip install 'verl==0.9.*'")


def check_hooks(owner: Any, hooks: Mapping[str, Iterable[str]]) -> None:
    """Check that `owner` has these attributes, and that those which are called take these arguments by name.

    >>> class Trainer:
    ...     def step(self, metrics): ...
    >>> check_hooks(Trainer, {"step": ["metrics"]})
    >>> check_hooks(Trainer, {"step": ["batch"]})
    Traceback (most recent call last):
    prepo_cli.errors.UsageError: Trainer.step of the installed verl does not take 'batch'; prepo runs inside verl 0.9

    Raises:
        UsageError: a method is missing, or takes other arguments.
    """
    for name, arguments in hooks.items():
        method = getattr(owner, name, None)
        if method is None:
            raise UsageError(f"the installed verl has no {owner.__name__}.{name}; prepo runs inside {SUPPORTED}")
        for argument in arguments:
            if argument not in inspect.signature(method).parameters:
                raise UsageError(
                    f"{owner.__name__}.{name} of the installed verl does not take '{argument}'; "
                    f"prepo runs inside {SUPPORTED}"
                )


def check_verl() -> None:
    """Check the installed verl's version and every method that the adapter calls or overrides.

    Raises:
        UsageError: see `check_version` and `check_hooks`.
    """
    check_version(version("verl"))
    from verl.experimental.agent_loop import agent_loop
    from verl.trainer.ppo.v1 import trainer_base
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
    from verl.utils import tensordict_utils

    for owner, hooks in (
        (PPOTrainerSync, TRAINER),
        (ReplayBuffer, REPLAY_BUFFER),
        (agent_loop, {"register": ("agent_name",), "_agent_loop_registry": ()}),
        (agent_loop.AgentLoopBase, {"run": ("sampling_params",)}),
        (agent_loop.AgentLoopWorker, {"_run_agent_loop": ("sampling_params", "agent_name")}),
        (trainer_base, {"register_trainer": ("name",)}),
        (tensordict_utils, {"get_tensordict": ("tensor_dict",), "assign_non_tensor_data": ("key", "val")}),
    ):
        check_hooks(owner, hooks)


TRAINER: Mapping[str, tuple[str, ...]] = {
    "__init__": ("config",),
    "_init_dataloader": (),
    "_add_prompts_to_generate": ("num_prompts",),
    "_next_train_batch": ("num_prompts",),
    "_submit_batch_to_rollout": ("batch",),
    "_add_batch_to_generate": (),
    "step": ("metrics", "timing_raw"),
    "_compute_advantage": ("batch", "metrics"),
    "_update_critic": ("batch", "metrics"),
    "_update_actor": ("batch", "metrics"),
    "on_step_end": (),
    "_consume_sync_metrics": (),
    "_save_checkpoint": (),
    "_load_checkpoint": (),
}
REPLAY_BUFFER: Mapping[str, tuple[str, ...]] = {
    "__init__": ("trainer_mode", "sampler_kwargs", "poll_interval", "refill_fn"),
    "sample": ("global_steps", "partition_id", "batch_size"),
    "_sync_metadata_from_transfer_queue": (),
    "_materialize_batch": ("partition_id", "selected_prompt_uids", "partition_snapshot"),
    "_wait_for_next_poll": ("partition_id", "last_debug_time"),
}
