"""Which TRL the adapter works with, and which parts of its trainer it hooks into; checked when it is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import trl
from packaging.version import Version
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from prepo_cli.errors import UsageError

OLDEST, BELOW = "1.16", "2"
"""The supported versions of TRL: from the first to below the second. pyproject.toml has the same in its extra."""
CURE = f"pip install 'trl>={OLDEST},<{BELOW}'"

HOOKS: dict[str, tuple[str, ...]] = {
    "_generate_and_score_completions": ("self", "inputs"),
    "_generate": ("self", "prompts"),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_compute_loss": ("self", "model", "inputs"),
    "_get_per_token_logps_and_entropies": (
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"),
    ),
    "training_step": ("self", "model", "inputs", "num_items_in_batch"),
    "prediction_step": ("self", "model", "inputs", "prediction_loss_only", "ignore_keys"),
    "log": ("self", "logs", "start_time"),
    "_save_checkpoint": ("self", "model", "trial"),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
}
"""Methods of `GRPOTrainer` that the adapter overrides or calls, with the parameters that it relies on, in order."""
FUNCTIONS: dict[str, tuple[str, ...]] = {"add_fused_lm_head": ("model", "temperature")}
"""Functions of its module, likewise."""

ATTRIBUTES = (
    *("_tokenizer", "_metrics", "_step", "chat_template_kwargs", "eos_token_ids", "loss_type", "num_generations"),
    *("mask_truncated_completions", "num_iterations", "ref_model", "reward_func_names", "reward_weights"),
    *("scale_rewards", "shuffle_dataset", "temperature", "use_vllm"),
)
"""What the adapter reads of a trainer that has been made."""

ROW_MEANS = frozenset({"grpo", "sapo", "dr_grpo", "luspo"})
"""Loss types that average over rows, so that rows without effect must not count."""
TOKEN_MEANS = frozenset({"dapo", "bnpo", "cispo", "vespo"})
"""Loss types that average over tokens."""
LEFT, RIGHT = True, False
FIELDS = {
    "prompt_ids": LEFT,
    "prompt_mask": LEFT,
    "completion_ids": RIGHT,
    "completion_mask": RIGHT,
    "tool_mask": RIGHT,
    "old_per_token_logps": RIGHT,
    "ref_per_token_logps": RIGHT,
    "sampling_per_token_logps": RIGHT,
    "importance_sampling_ratio": RIGHT,
    "advantages": RIGHT,
}
"""The tensors of a generated batch, a row for each rollout, and whether they are padded on the left."""


def check_version(version: str) -> None:
    """Refuse a TRL outside the supported range.

    >>> check_version("1.15.0")
    Traceback (most recent call last):
    prepo_cli.errors.UsageError: prepo works with TRL from 1.16 to below 2, not with 1.15.0: pip install 'trl>=1.16,<2'
    """
    if not Version(OLDEST) <= Version(version) < Version(BELOW):
        raise UsageError(f"prepo works with TRL from {OLDEST} to below {BELOW}, not with {version}: {CURE}")


def check_hooks(owner: Any, hooks: dict[str, tuple[str, ...]], version: str) -> None:
    """Refuse a TRL whose hooks are gone or take other parameters; raises UsageError that names the first."""
    for name, expected in hooks.items():
        function: Callable[..., Any] | None = getattr(owner, name, None)
        found = () if function is None else tuple(inspect.signature(function).parameters)
        if found[: len(expected)] != expected:
            raise UsageError(
                f"TRL {version} has no {name}({', '.join(expected)}), which prepo hooks into; "
                f"install a release it was tested with: pip install 'trl=={OLDEST}.*'"
            )


def check_attributes(trainer: Any) -> None:
    """Refuse a trainer that lacks one of `ATTRIBUTES`; raises UsageError that names the first."""
    for name in ATTRIBUTES:
        if name not in vars(trainer):
            raise UsageError(
                f"TRL {trl.__version__}'s trainer has no {name}, which prepo reads; "
                f"install a release it was tested with: pip install 'trl=={OLDEST}.*'"
            )


check_version(trl.__version__)
check_hooks(GRPOTrainer, HOOKS, trl.__version__)
check_hooks(grpo_trainer, FUNCTIONS, trl.__version__)
