"""The processes of a run, and how the policy is laid out over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prepo_cli.distributed.layout import Layout
    from prepo_cli.distributed.processes import Processes
    from prepo_cli.policy.policy import Policy
    from prepo_cli.sections import TrainingConfig


def build_layout(policy: Policy, processes: Processes, training: TrainingConfig) -> Layout:
    """Place the policy in the configured layout; only what that layout needs is imported."""
    from prepo_cli.distributed.processes import FSDP, ZERO

    if processes.layout == ZERO:
        from prepo_cli.distributed.zero import Zero

        return Zero(policy, processes, training)
    if processes.layout == FSDP:
        from prepo_cli.distributed.fsdp import FullyShard

        return FullyShard(policy, processes, training)
    from prepo_cli.distributed.layout import Replicated

    return Replicated(policy, processes, training)
