"""The policy in DeepSpeed's ZeRO, stages 1 to 3: optimizer state, gradients and weights partitioned.

accelerate's configuration requests it (stage, offloading, or a DeepSpeed file); prepo applies it itself, because
accelerate ignores it on machines without an accelerator, and because with variable rollouts the number of micro-batches
changes from step to step. Batch sizes, precision, clipping and optimizer are prepo's own settings.

In bfloat16 DeepSpeed trains float32 master weights; these are saved and sent to engines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn

from prepo_cli.distributed.layout import Layout, OptimizerState, adamw
from prepo_cli.distributed.processes import Processes
from prepo_cli.errors import UsageError
from prepo_cli.policy.policy import Policy
from prepo_cli.policy.rows import Rows
from prepo_cli.sections import TrainingConfig

WEIGHTS_STAGE = 3
"""From this stage on the weights themselves are partitioned."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(Layout):
    """Optimizer state partitioned by DeepSpeed; from stage 2 on gradients too, in stage 3 also the weights.

    Raises:
        UsageError: DeepSpeed is not installed, or its configuration sets what prepo decides or does not support.
    """

    engine: Any
    """DeepSpeed's wrapper around the scorer and its optimizer."""
    reference_engine: Any = None
    """DeepSpeed's wrapper around the reference; kept because it removes its hooks when it is deleted."""

    def __init__(self, policy: Policy, processes: Processes, training: TrainingConfig) -> None:
        self.config = zero_config(training, processes.count)
        self.stage: int = self.config["zero_optimization"]["stage"]
        self.half = bool(self.config["bf16"]["enabled"])
        super().__init__(policy, processes, training)

    def _place(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        check_precision(self.policy.model, self.half)
        masters = [(p, p.data) for p in self.parameters] if self.half else []
        optimizer = adamw(self.parameters, self.training)
        with _quiet():
            self.engine, *_ = _deepspeed().initialize(model=self.policy.scorer, optimizer=optimizer, config=self.config)
        for parameter, weight in masters:  # DeepSpeed made its masters from the rounded weights
            self._set(parameter, weight)
        self._adopt(self.policy)
        return self.engine, optimizer

    def _adopt(self, policy: Policy) -> None:
        policy.device = self.processes.device
        if self.stage == WEIGHTS_STAGE:
            policy.scorer.common_chunk_count = self._largest
            policy.scorer.shares_prefixes = False

    def place_reference(self, reference: Policy) -> None:
        if self.stage < WEIGHTS_STAGE:
            reference.model.to(self.processes.device, torch.bfloat16 if self.half else None)
        else:
            with _quiet():
                self.reference_engine, *_ = _deepspeed().initialize(model=reference.scorer, config=self.config)
        self._adopt(reference)

    def gathered(self) -> AbstractContextManager[None]:
        return self._without_hooks() if self.stage == WEIGHTS_STAGE else nullcontext()

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(self, learning_rate: float) -> float:
        # DeepSpeed itself takes no step if the norm isn't finite; with bfloat16 only because of `check_grad_overflow`.
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def optimizer_state(self, keep: bool) -> OptimizerState:
        from deepspeed.utils import safe_get_full_optimizer_state

        kept: OptimizerState = {}
        held = self._held()
        if not held:
            return kept
        count = held[0]["step"]
        for name, parameter in self._named():
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if keep:
                kept[name] = {"step": count.clone().cpu()} | {key: value.cpu() for key, value in moments.items()}
        return kept

    def load_optimizer_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        if not state:
            return
        self._make_moments()
        for name, parameter in self._named():
            for key in MOMENTS:
                self._set(parameter, state[name][key], key)
        count = next(iter(state.values()))["step"]
        for entry in self._held():
            entry["step"].copy_(count)

    def _named(self) -> Iterator[tuple[str, Any]]:
        return ((name, p) for name, p in self.policy.model.named_parameters() if p.requires_grad)

    def _held(self) -> list[dict[str, Any]]:
        """AdamW's state for each of this process's partitions; none before the first step."""
        return [entry for entry in self.optimizer.state.values() if entry]

    def _make_moments(self) -> None:
        """Take a step that changes nothing: AdamW creates its state in its first step."""
        pad = self.policy.pad_token_id
        with self.micro_batch(last=True):
            logprob_M, _ = self.engine(Rows.of([[pad, pad]], [(1, 2)], [1.0], pad, self.processes.device))
            self.backward(logprob_M.sum() * 0.0)
        self.step(learning_rate=0.0)

    def _set(self, parameter: Any, value: Tensor, key: str | None = None) -> None:
        """Set a master weight, or its optimizer state under `key`, from the full tensor."""
        from deepspeed import utils

        value = value.to(self.processes.device, torch.float32)
        set_weight, set_moment = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        if self.stage == WEIGHTS_STAGE:
            set_weight, set_moment = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
            size = -(-value.numel() // self.processes.count)  # the last part is padded
            part = value.flatten()[size * self.processes.index :][:size]
            value = nn.functional.pad(part, (0, size - len(part)))
        if key is None:
            set_weight(parameter, value)
        else:
            set_moment(parameter, value, key)

    def _largest(self, number: int) -> int:
        """The maximum of `number` over all processes."""
        box = torch.tensor(number, device=self.processes.device)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        """All weights gathered, and DeepSpeed's hooks, which would partition them again after each layer, removed."""
        from deepspeed import zero

        offload = self.engine.optimizer.parameter_offload
        with zero.GatheredParameters(list(self.policy.model.parameters())):
            for hooks in (offload.forward_hooks, offload.backward_hooks):
                for hook in hooks:
                    hook.remove()
                hooks.clear()
            offload.fwd_pre_hook.remove()
            try:
                yield
            finally:
                offload.setup_zero_stage3_hooks()


def check_precision(model: nn.Module, half: bool) -> None:
    """Trained weights must be float32, as their masters and checkpoints are; frozen ones may be bfloat16.

    Raises:
        UsageError: the weights have another precision.
    """
    if any(p.dtype != torch.float32 for p in model.parameters() if p.requires_grad):
        raise UsageError(
            "DeepSpeed trains float32 master weights; set model.dtype=float32 and training.mixed_precision=bf16"
        )
    if not half and any(p.dtype != torch.float32 for p in model.parameters()):
        raise UsageError("DeepSpeed needs the same precision for all weights; set training.mixed_precision=bf16")


def zero_config(training: TrainingConfig, count: int) -> dict[str, Any]:
    """DeepSpeed's configuration: what accelerate's configuration requests, with prepo's own settings.

    Raises:
        UsageError: DeepSpeed is not installed, or the configuration sets what prepo decides or does not support.
    """
    _deepspeed()
    try:
        config: dict[str, Any] = _without_auto(DeepSpeedPlugin().deepspeed_config)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(f"DeepSpeed's configuration: {error}") from error
    stage = config["zero_optimization"].get("stage", 0)
    if stage not in (1, 2, 3):
        raise UsageError(f"DeepSpeed's zero_stage is {stage}; set 1, 2 or 3, or configure accelerate for DDP")
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise UsageError(
                f"DeepSpeed's configuration has a section '{section}'; remove it, because prepo uses its own"
            )
    for section in ("fp16", "amp"):
        if config.get(section, {}).get("enabled"):
            raise UsageError(f"DeepSpeed's configuration enables {section}; use training.mixed_precision=bf16")
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # prepo counts micro-batches itself: their number varies
        "train_batch_size": count,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.mixed_precision == "bf16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,
    }


def _without_auto(value: Any) -> Any:
    """Drop values left to accelerate ('auto'), so that DeepSpeed's defaults apply."""
    if not isinstance(value, dict):
        return value
    return {key: _without_auto(item) for key, item in value.items() if item != "auto"}


def _deepspeed() -> Any:
    with _quiet():
        try:
            import deepspeed
        except ImportError as error:
            raise UsageError("DeepSpeed is requested but not installed; run: pip install 'prepo[deepspeed]'") from error
    # On CPUs it would compile a kernel at the start that only inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for handler in logging.getLogger("DeepSpeed").handlers:
        if type(handler) is logging.StreamHandler:  # DeepSpeed's own
            handler.stream = sys.stderr
    return deepspeed


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what DeepSpeed prints to stdout, which is for prepo's results."""
    with redirect_stdout(StringIO()):
        yield
