"""The processes of a run: the main one controls, all of them compute.

Strategies, data, rewards and the run folder live on the main process alone. What all processes do together (generate,
score, update, send weights, save) is a method of their worker; the main process calls it everywhere with `call`, and
the others answer in `serve`. So the training loop does not depend on the number of processes.

accelerate's configuration or `training.fsdp` sets how the policy is laid out over the processes, and prepo applies it
(layout.py, fsdp.py, zero.py), so that CPUs and GPUs run the same code.

Control messages use a separate gloo group with a time-out that outlasts any reward function; the group that reduces
gradients keeps its usual time-out.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from prepo_cli import signals
from prepo_cli.errors import UsageError
from prepo_cli.sections import TrainingConfig

T = TypeVar("T")
Args = TypeVarTuple("Args")
CONTROL_TIMEOUT = timedelta(days=30)
MAIN = 0
UNSUPPORTED = ("MEGATRON_LM", "PARALLELISM_CONFIG")
REPLICATED, FSDP, ZERO = "replicated", "fsdp", "zero"
USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
DONE, FAILED = "done", "failed"


class Processes:
    """How many processes there are, which one this is, and how they communicate.

    Raises:
        UsageError: the requested sharding is unsupported, or would be ignored here.
    """

    def __init__(self, training: TrainingConfig) -> None:
        for kind in UNSUPPORTED:
            if _true(f"ACCELERATE_USE_{kind}"):
                raise UsageError(f"{kind} is not supported; configure accelerate for DDP, FSDP version 2 or DeepSpeed")
        zero = _true(USE_DEEPSPEED)
        os.environ.pop(USE_DEEPSPEED, None)  # accelerate sets up the processes, prepo applies ZeRO itself
        if AcceleratorState._shared_state.get("_mixed_precision", training.mixed_precision) != training.mixed_precision:
            AcceleratorState._reset_state()  # an earlier run in this process had another precision
        self.accelerator = Accelerator(mixed_precision=training.mixed_precision)
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.device: torch.device = self.accelerator.device
        if self.device.type == "cpu":
            # Otherwise DeepSpeed, if installed, prints which accelerator it detects.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        self.layout = _layout(self.accelerator, training.fsdp, zero)
        self._group = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT) if self.count > 1 else None
        self._calling = False

    @property
    def sharded(self) -> bool:
        """Whether no process holds the whole policy, or DeepSpeed manages it."""
        return self.layout != REPLICATED

    @property
    def reachable(self) -> bool:
        """Whether the others wait for a call; after a failure in the middle of one they don't."""
        return not self._calling

    @property
    def is_main(self) -> bool:
        """Whether this process controls the run."""
        return self.index == MAIN

    def share(self, compute: Callable[[], T]) -> T:
        """Compute on the main process; return the result on all.

        Raises:
            SystemExit: on the others, quietly, if the main process failed.
        """
        if self.count == 1:
            return compute()
        box: list[Any] = [None]
        if self.is_main:
            try:
                box = [(DONE, compute())]
            except BaseException:
                self._broadcast([FAILED])
                raise
        self._broadcast(box)
        self._stop_if_failed(box[0])
        answer: T = box[0][1]
        return answer

    def call(self, method: Callable[[*Args], T], shares: Sequence[tuple[*Args]]) -> list[T]:
        """Call a worker's method on every process, each with its own share; results in the order of the processes.

        `method` is bound to this process's worker; the others call theirs, by the method's name, in `serve`.
        """
        if self.count == 1:
            return [method(*shares[0])]
        self._calling = True
        self._broadcast([method.__name__])
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, list(shares), src=MAIN, group=self._group)
        gathered: list[Any] = [None] * self.count
        dist.gather_object(method(*mine[0]), gathered, dst=MAIN, group=self._group)
        self._calling = False
        return gathered

    def leave(self, close_engine: Callable[[], None]) -> None:
        """Leave the run once all processes are done and nothing refers to a model any more; close the engine last.

        A group that is still referenced when the interpreter exits may abort the process, and closing an engine may
        destroy all groups.
        """
        if self.count > 1:
            dist.barrier(group=self._group)
            self._group = None
            self.accelerator.free_memory()
            gc.collect()
        close_engine()
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def serve(self, worker: Any) -> None:
        """Answer the main process's calls until it is done. Only the main process reacts to interrupts."""
        signals.ignore()
        while True:
            box: list[Any] = [None]
            self._broadcast(box)
            self._stop_if_failed(box[0])
            if box[0] == DONE:
                return
            share: list[Any] = [None]
            dist.scatter_object_list(share, None, src=MAIN, group=self._group)
            dist.gather_object(getattr(worker, box[0])(*share[0]), None, dst=MAIN, group=self._group)

    @contextmanager
    def controlling(self) -> Iterator[None]:
        """A context around the main process's part of a run; its end, even by an error, releases the other processes.

        After a failure in the middle of a call they can't be reached, and the launcher ends them.
        """
        try:
            yield
        except BaseException:
            if self.count > 1 and self.reachable:
                with suppress(RuntimeError):
                    self._broadcast([FAILED])
            raise
        if self.count > 1:
            self._broadcast([DONE])

    def _stop_if_failed(self, message: Any) -> None:
        """Exit if the main process says that it failed; it reports what went wrong."""
        if message == FAILED:
            dist.destroy_process_group()
            raise SystemExit(0)

    def _broadcast(self, box: list[Any]) -> None:
        dist.broadcast_object_list(box, src=MAIN, group=self._group)


def _layout(accelerator: Accelerator, fsdp: bool, zero: bool) -> str:
    """How the policy is laid out over the processes; refuses a request that would be silently ignored."""
    kind = accelerator.distributed_type
    if zero and (fsdp or _true("ACCELERATE_USE_FSDP")):
        raise UsageError("DeepSpeed and FSDP are both requested; choose one")
    if zero and not dist.is_initialized():
        raise UsageError("DeepSpeed needs a launcher; start with accelerate launch or torchrun")
    if _true("ACCELERATE_USE_FSDP") and kind != DistributedType.FSDP:
        raise UsageError(
            f"accelerate is configured for FSDP but started {kind.value}, which does not shard; "
            "remove that setting and use training.fsdp=true, or run on GPUs"
        )
    if kind == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise UsageError("accelerate is configured for FSDP version 1; set fsdp_version: 2 in its configuration")
        if _true("FSDP_CPU_RAM_EFFICIENT_LOADING"):
            raise UsageError(
                "fsdp_cpu_ram_efficient_loading is not supported, since every process loads the weights it shards; set "
                "it to false"
            )
        return FSDP
    if fsdp and accelerator.num_processes == 1:
        raise UsageError(
            "training.fsdp=true needs several processes but only one was started; start several with torchrun"
        )
    return ZERO if zero else FSDP if fsdp else REPLICATED


def _true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true")
