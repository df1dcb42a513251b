"""A running vLLM server, stock `vllm serve`, as the engine: it generates with the weights that it is sent.

Start it with the endpoints for RL and with the log-probs that training needs, on an address that only the trainer
can reach, because these endpoints obey any caller:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --max-model-len N --logprobs-mode processed_logprobs

Each call requests all rollouts of one prompt. `IN_FLIGHT` calls are open at a time, so the server's batch stays full
even if some calls take long. While the server is down, calls are retried.

A restarted server has the weights it was started with. Rollouts from those weights are never returned: after each
answer the server's weight version, which only this engine sets, is read, and the answer counts only if the version is
right and no weights were loaded since the call was sent. If the server has lost the version, the newest weights are
loaded again (over NCCL only the caller can do that: `StaleServer`). A cache salt keeps states that one call leaves in
the prefix cache from being reused under other weights.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import torch

from prepo_cli.engines.base import EngineSetup
from prepo_cli.engines.vllm_answers import Choice, Choices, WeightInfo, read_answer
from prepo_cli.engines.vllm_common import Answer, Completion, Job, OnAnswer, VllmBase
from prepo_cli.engines.vllm_connections import CallGroup, Unavailable
from prepo_cli.engines.vllm_disk import DiskTransfer
from prepo_cli.engines.vllm_http import MAX_BYTES, Backoff, Server
from prepo_cli.engines.vllm_nccl import NcclTransfer
from prepo_cli.engines.vllm_progress import Progress
from prepo_cli.engines.vllm_server_check import check_server
from prepo_cli.engines.vllm_transfer import REPLY_TIMEOUT_S, Transfer
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.loading import model_source
from prepo_cli.sections import EngineConfig

IN_FLIGHT = 64
BYTES_PER_TOKEN = 1024
"""More than any answer takes."""
HEARTBEAT_S = 5.0
"""While no answer arrives, the interval between checks that the server is up and has the right weights."""
INITIAL_VERSION = "default"
"""The weight version of a server that has never been sent weights."""


class VllmServerEngine(VllmBase):
    """Generates with a vLLM server, on the main process for all.

    Args:
        config: engine settings.
        model: folder or hub name of the model that the server was started with.
        eos_token_ids: all tokens that end a rollout.
        max_model_len: tokens of the longest prompt and its completion together, unless `config` says otherwise.
        sync_dir: folder for weights, unless `config` names one; the server must see it under the same path.

    Raises:
        UsageError: the server is not set up correctly; RunError: it does not answer.
    """

    serves_all: ClassVar[bool] = True

    def __init__(
        self,
        config: EngineConfig,
        *,
        model: str,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        sync_dir: Path,
    ) -> None:
        self._server = Server(config.vllm_server_base_url, config.vllm_server_timeout_s)
        facts = check_server(self._server, model, config.vllm_max_model_length or max_model_len)
        super().__init__(eos_token_ids, facts.max_model_len)
        self._model, self._version_found = facts.model, facts.weight_version
        self._transfer: Transfer
        if _over_nccl(config, facts.transfer_backend, self._server.url):
            self._transfer = NcclTransfer(self._server, facts.dtype)
        else:
            folder = Path(config.vllm_sync_dir) if config.vllm_sync_dir else sync_dir
            self._transfer = DiskTransfer(self._server, folder, facts.dtype)
        self._lock = threading.Lock()
        self._run = uuid4().hex[:12]
        self._syncs = 0
        self._loads = 0  # times that weights were loaded, by a sync or again after a restart
        self._version = INITIAL_VERSION

    @classmethod
    def build(cls, setup: EngineSetup) -> VllmServerEngine:
        """An engine on the configured server. Even if the run is resumed, the server has the original model."""
        return cls(
            setup.config,
            model=model_source(setup.model_config.model_name_or_path),
            eos_token_ids=setup.model.eos_token_ids,
            max_model_len=setup.max_context,
            sync_dir=setup.sync_dir,
        )

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load new weights: all of them, under the hub's names and always including `lm_head.weight`."""
        with self._lock:
            if self._syncs:
                self._check_owner(self._weights_of(self._server.retry("/weight_info", timeout_s=REPLY_TIMEOUT_S)))
            self._syncs += 1
            self._loads += 1
            version = f"prepo-{self._run}-{self._syncs}"
            self._transfer.send(weights, version)
            self._version = version

    def sleep(self) -> None:
        """The server keeps its memory."""

    def close(self) -> None:
        """Delete the weights that were written for the server."""
        self._transfer.close()

    def _answer(self, jobs: Sequence[Job], on_answer: OnAnswer) -> None:
        if not self._syncs and self._version_found != INITIAL_VERSION:
            raise UsageError(f"the server at {self._server.url} has another run's weights; restart it")
        group = CallGroup()
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="vllm-server")
        numbers = {pool.submit(self._complete, _body(job), group): number for number, job in enumerate(jobs)}
        waiting: set[Future[Any]] = set(numbers)
        last_sign = time.monotonic()
        progress = Progress(self._server)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                for future in done:
                    number = numbers[future]
                    on_answer(number, self._read(future.result(), jobs[number]))
                if done or self._is_up(group, last_sign):
                    last_sign = time.monotonic()
                if not done:
                    progress.check()
        finally:
            group.close()
            pool.shutdown(cancel_futures=True)

    def _complete(self, body: dict[str, Any], group: CallGroup) -> list[Choice]:
        """The choices of one completion, guaranteed to come from the weights that the server should have."""
        backoff = Backoff(self._server, group)
        tokens = body["n"] * body["max_tokens"] + len(body["prompt"])
        while True:
            with self._lock:
                loads = self._loads
            salted = {**body, "model": self._model, "cache_salt": f"{self._run}-{loads}"}
            try:
                limit = MAX_BYTES + tokens * BYTES_PER_TOKEN
                answer = self._server.call("/v1/completions", salted, group=group, max_bytes=limit)
                info = self._server.call("/weight_info", timeout_s=REPLY_TIMEOUT_S, group=group)
                if self._weights_of(info) == self._version and loads == self._loads:
                    self._server.record_success()
                    return read_answer(Choices, answer, self._server.url).choices
            except Unavailable as error:
                backoff.pause(error)
            self._restore(loads, group)

    def _restore(self, loads: int, group: CallGroup) -> None:
        """Load the newest weights again if the server has lost them; not if that was done after load number `loads`."""
        with self._lock:
            if loads != self._loads:
                return
            found = self._weights_of(self._server.retry("/weight_info", timeout_s=REPLY_TIMEOUT_S, group=group))
            if found == self._version:
                return
            self._check_owner(found)
            self._loads += 1
            group.abort()
            self._transfer.restore(self._version, group)

    def _is_up(self, group: CallGroup, since: float) -> bool:
        """Whether the server answers. Detects one that hangs, or that restarted without closing its connections."""
        with self._lock:
            loads = self._loads
        try:
            wait_s = min(REPLY_TIMEOUT_S, self._server.give_up_after_s)
            found = self._weights_of(self._server.call("/weight_info", timeout_s=wait_s))
        except Unavailable as error:
            self._server.record_failure(error, since)
            return False
        if found != self._version:
            self._restore(loads, group)
        return True

    def _check_owner(self, version: str) -> None:
        """Stop if someone else loads weights into the server."""
        if version not in (INITIAL_VERSION, self._version):
            raise RunError(
                f"another run sent its weights to the server at {self._server.url}; use a separate "
                "server for each run, then continue with --resume"
            )

    def _weights_of(self, info: Any) -> str:
        """The version of the server's weights, from what /weight_info answers."""
        return read_answer(WeightInfo, info, self._server.url).weight_version

    def _read(self, choices: Sequence[Choice], job: Job) -> Answer:
        """The answer to a job; raises RunError if it is not to what was asked."""
        scores = [choice.logprobs.token_logprobs if choice.logprobs else [] for choice in choices]
        if "prompt_logprobs" in job.settings:
            positions = list(zip((choices[0].prompt_logprobs or []) if choices else [], job.prompt_ids, strict=False))
            if all(position is None or str(token) in position for position, token in positions):
                return Answer([], [position[str(token)].logprob for position, token in positions if position])
        elif len(choices) == job.settings["n"] and all(
            len(choice.token_ids) == len(logprobs) for choice, logprobs in zip(choices, scores, strict=True)
        ):
            parts = zip(choices, scores, strict=True)
            return Answer([Completion(one.token_ids, logprobs, one.finish_reason) for one, logprobs in parts])
        raise RunError(
            f"the vLLM server at {self._server.url} omitted completions or log-probs of a prompt; "
            "check its version and settings, then continue with --resume"
        )


def _body(job: Job) -> dict[str, Any]:
    return {
        **job.settings,
        "prompt": list(job.prompt_ids),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _over_nccl(config: EngineConfig, backend: str | None, url: str) -> bool:
    """Whether weights go over NCCL; raises UsageError if they should but cannot."""
    possible = backend == "nccl" and torch.cuda.is_available()
    if config.vllm_weight_sync == "nccl" and not possible:
        reason = "the trainer has no GPU" if backend == "nccl" else "the server was not started with support for it"
        raise UsageError(
            f"engine.vllm_weight_sync=nccl can't be used with {url}: {reason}; set it to disk, or start the server on "
            """a GPU with --weight-transfer-config '{"backend": "nccl"}'"""
        )
    return possible and config.vllm_weight_sync != "disk"
