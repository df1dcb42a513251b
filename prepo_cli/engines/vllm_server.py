"""A vLLM server that runs already, stock `vllm serve`, as the engine: it generates, and is sent the weights.

Start it with the endpoints for RL and the log-probs that are trained on, bound to an address others can't reach,
since these endpoints do whatever a caller asks:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --max-model-len N --logprobs-mode processed_logprobs

A request is one prompt with its rollouts; `IN_FLIGHT` of them are under way at a time, so that the server's batch
stays full however long they take. A server that is away is waited for.

A server that is started again has the weights it was started with. No rollout of such weights is ever returned: each
answer is followed by a look at the server's weight version, which only this engine sets, and counts only if the
version is right and no weights were loaded since the request was sent. Where the version is lost, the newest weights
are loaded again (over NCCL only the caller can do that: `StaleServer`). States that a request has left in the prefix
cache are found again only by requests of the same weights.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch

from prepo_cli.engines.base import Progress, Request, Rollout
from prepo_cli.engines.vllm_common import (
    check_length,
    check_requests,
    check_version,
    prompt_array,
    rollouts,
    sampling_fields,
    scoring_fields,
)
from prepo_cli.engines.vllm_http import Calls, Refused, Server, Unavailable, Waiting
from prepo_cli.engines.vllm_transfer import DiskTransfer, NcclTransfer
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.policy import ModelSpec, Policy
from prepo_cli.sections import EngineConfig

IN_FLIGHT = 64
PULSE_S = 5.0
"""While nothing finishes, the server is asked so often whether it is still there, with the right weights."""
ANSWER_S = 30.0
"""Time-out of calls that need no generation."""
STARTED_WITH = "default"
"""The weight version of a server that was sent no weights."""
HINT = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs"


class StaleServer(RunError):
    """The server was started again and has lost the weights; `sync` brings them back."""


class VllmServerEngine:
    """Generates with a vLLM server. With several processes only the main one has this engine.

    Args:
        config: engine settings.
        policy: the model that is trained, or what is known of it; its end tokens end rollouts.
        max_model_len: tokens the longest prompt takes with its completion, where `config` doesn't say.
        sync_dir: folder for weights, where `config` names none; the server must see it under the same path.

    Raises:
        UsageError: the server is not set up as it must be; RunError: there is none.
    """

    def __init__(self, config: EngineConfig, *, policy: Policy | ModelSpec, max_model_len: int, sync_dir: Path) -> None:
        self._server = Server(config.vllm_server_base_url, config.vllm_server_timeout_s)
        self._eos_token_ids = policy.eos_token_ids
        self._lock = threading.Lock()
        self._era = 0  # counts the times weights were loaded, and the times they were found lost
        self._run = uuid4().hex[:12]
        self._syncs = 0
        settings = self._check(policy.source, config.vllm_max_model_length or max_model_len)
        dtype = getattr(torch, str(settings["model_config"]["dtype"]).removeprefix("torch."))
        backend = (settings.get("weight_transfer_config") or {}).get("backend")
        self._transfer: DiskTransfer | NcclTransfer
        if _over_nccl(config, backend, self._server.url):
            self._transfer = NcclTransfer(self._server, dtype)
        else:
            folder = Path(config.vllm_sync_dir) if config.vllm_sync_dir else sync_dir
            self._transfer = DiskTransfer(self._server, folder, dtype)
        self._version = STARTED_WITH

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request, in the order of its seeds."""
        check_requests(requests, self._max_model_len)
        asked = [r for r, request in enumerate(requests) if request.seeds]
        results: list[list[Rollout]] = [[] for _ in requests]
        bodies = [_body(requests[r].prompt_ids, sampling_fields(requests[r], self._eos_token_ids)) for r in asked]

        def take(job: int, choices: list[dict[str, Any]]) -> None:
            r = asked[job]
            answers = ((c["token_ids"], c["logprobs"]["token_logprobs"], c["finish_reason"]) for c in choices)
            results[r] = rollouts(requests[r], answers, self._eos_token_ids)
            if progress is not None:
                progress(len(results[r]))

        self._ask(bodies, take)
        return results

    def prompt_logprobs(self, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Log-probs at temperature 1 of every token but the first of each row."""
        scored = [np.empty(0, dtype=np.float32) for _ in rows]
        asked = [i for i, row in enumerate(rows) if len(row) > 1]
        for i in asked:
            check_length(len(rows[i]), 1, self._max_model_len)

        def take(job: int, choices: list[dict[str, Any]]) -> None:
            row = rows[asked[job]]
            entries = zip(choices[0]["prompt_logprobs"], row, strict=True)
            scored[asked[job]] = prompt_array([e[str(token)]["logprob"] for e, token in entries if e], row)

        self._ask([_body(rows[i], scoring_fields()) for i in asked], take)
        return scored

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's weights: all of them, under the hub's names, `lm_head.weight` always among them."""
        with self._lock:
            if self._syncs:
                self._refuse_strangers(self._server.patiently("/weight_info", timeout_s=ANSWER_S))
            self._syncs += 1
            self._era += 1
            version = f"prepo-{self._run}-{self._syncs}"
            self._transfer.send(weights, version)
            self._version = version

    def sleep(self) -> None:
        """The server keeps its memory."""

    def wake(self) -> None:
        """The server never sleeps."""

    def close(self) -> None:
        """Remove the weights that were left for the server."""
        self._transfer.close()

    def _check(self, source: str, max_model_len: int) -> dict[str, Any]:
        """Refuse a server that is not set up for this; returns its settings."""
        url = self._server.url
        try:
            version = self._server.once("/version", timeout_s=ANSWER_S)["version"]
        except Unavailable:
            print(f"prepo: waiting for the vLLM server at {url}", file=sys.stderr, flush=True)
            version = self._server.patiently("/version", timeout_s=ANSWER_S)["version"]
        check_version(version, f"the server at {url}")
        served = self._server.patiently("/v1/models", timeout_s=ANSWER_S)["data"][0]
        if Path(source).name not in (Path(served["id"]).name, Path(served.get("root") or "").name):
            raise UsageError(
                f"the server at {url} has the model '{served['id']}', the run trains '{source}': start the server with "
                f"that model, or with --served-model-name {Path(source).name} if it is the same one"
            )
        self._model = served["id"]
        self._max_model_len = int(served["max_model_len"])
        if self._max_model_len < max_model_len:
            raise UsageError(
                f"the server at {url} takes {self._max_model_len} tokens, the run needs {max_model_len}: start it with "
                f"--max-model-len {max_model_len}, or lower the length limits"
            )
        try:
            found = self._server.patiently("/weight_info", timeout_s=ANSWER_S)["weight_version"]
            # the server collects facts on its machine for the first such call, which takes a while
            settings = self._server.patiently("/server_info?config_format=json", timeout_s=300.0)["vllm_config"]
        except Refused as error:
            raise UsageError(f"the server at {url} can't be sent weights: start it with {HINT}") from error
        mode = settings["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise UsageError(f"the server at {url} gives {mode}: start it with --logprobs-mode processed_logprobs")
        self._version_found = str(found)
        return dict(settings)

    def _ask(self, bodies: Sequence[dict[str, Any]], take: Callable[[int, list[dict[str, Any]]], None]) -> None:
        """Complete all bodies, some at a time, and hand each answer over; break off what is under way on an error."""
        if not self._syncs and self._version_found != STARTED_WITH:
            raise UsageError(f"the server at {self._server.url} has weights of another run: start it again")
        calls = Calls()
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="vllm-server")
        jobs = {pool.submit(self._complete, body, calls): job for job, body in enumerate(bodies)}
        waiting: set[Future[Any]] = set(jobs)
        heard = time.monotonic()
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=PULSE_S, return_when=FIRST_COMPLETED)
                for future in done:
                    take(jobs[future], future.result())
                if done or self._alive(calls, heard):
                    heard = time.monotonic()
        finally:
            calls.end()
            pool.shutdown(cancel_futures=True)

    def _complete(self, body: dict[str, Any], calls: Calls) -> list[dict[str, Any]]:
        """The choices of one completion, of the weights that the server should have."""
        waiting = Waiting(self._server, calls)
        while True:
            with self._lock:
                era = self._era
            salted = {**body, "model": self._model, "cache_salt": f"{self._run}-{era}"}
            try:
                choices: list[dict[str, Any]] = self._server.once("/v1/completions", salted, calls=calls)["choices"]
                found = self._server.once("/weight_info", timeout_s=ANSWER_S, calls=calls)["weight_version"]
                if found == self._version and era == self._era:
                    self._server.succeeded()
                    return choices
            except Unavailable as error:
                waiting.pause(error)
            self._restore(era, calls)

    def _restore(self, era: int, calls: Calls) -> None:
        """See to it that the server has the right weights, unless somebody has since `era`."""
        with self._lock:
            if era != self._era:
                return
            info = self._server.patiently("/weight_info", timeout_s=ANSWER_S, calls=calls)
            if info["weight_version"] == self._version:
                return
            self._refuse_strangers(info)
            self._era += 1
            calls.drop()
            if isinstance(self._transfer, NcclTransfer):
                self._transfer.forget()
                raise StaleServer(
                    f"the vLLM server at {self._server.url} was started again and has lost the weights; go on with "
                    "--resume"
                )
            self._transfer.load_again(self._version, calls)

    def _alive(self, calls: Calls, since: float) -> bool:
        """Whether the server answers; notices one that hangs, or was started again without closing connections."""
        with self._lock:
            era = self._era
        try:
            found = self._server.once("/weight_info", timeout_s=ANSWER_S)["weight_version"]
        except Unavailable as error:
            self._server.failed(error, since)
            return False
        if found != self._version:
            self._restore(era, calls)
        return True

    def _refuse_strangers(self, info: dict[str, Any]) -> None:
        """Stop if somebody else loads weights into the server."""
        found = info["weight_version"]
        if found not in (STARTED_WITH, self._version):
            raise RunError(
                f"another run has sent its weights to the server at {self._server.url}: give each run a server of its "
                "own, and --resume"
            )


def _body(prompt_ids: Sequence[int], fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **fields,
        "prompt": list(prompt_ids),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _over_nccl(config: EngineConfig, backend: str | None, url: str) -> bool:
    """Whether weights go over NCCL; raises UsageError where they should and can't."""
    possible = backend == "nccl" and torch.cuda.is_available()
    if config.vllm_weight_sync == "nccl" and not possible:
        missing = "no GPU here" if backend == "nccl" else "the server was not started for it"
        raise UsageError(
            f"engine.vllm_weight_sync=nccl with {url}: {missing}; set it to disk, or start the server on a GPU with "
            """--weight-transfer-config '{"backend": "nccl"}'"""
        )
    return possible and config.vllm_weight_sync != "disk"
