"""Check that a running vLLM server is set up for this run: version, model, context, weight endpoints and log-probs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from prepo_cli.engines.vllm_answers import Models, ServerInfo, ServerSettings, Version, WeightInfo, read_answer
from prepo_cli.engines.vllm_common import check_version
from prepo_cli.engines.vllm_connections import Unavailable
from prepo_cli.engines.vllm_http import Rejected, Server
from prepo_cli.engines.vllm_transfer import REPLY_TIMEOUT_S
from prepo_cli.errors import UsageError
from prepo_cli.terminal import say

FIRST_INFO_TIMEOUT_S = 300.0
"""For the first call for the server's settings, which is slow because it collects facts about the machine."""
SERVE = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs"


@dataclass(frozen=True)
class ServerFacts:
    """What a run needs to know about its server; `weight_version` is that of the weights it has now."""

    model: str
    max_model_len: int
    dtype: torch.dtype
    weight_version: str
    transfer_backend: str | None


def check_server(server: Server, model: str, max_model_len: int) -> ServerFacts:
    """The facts about a server, once it is up.

    Args:
        model: folder or hub name of the model that the server should serve.
        max_model_len: tokens of context that the run needs.

    Raises:
        UsageError: the server is not set up correctly; RunError: it does not answer.
    """
    try:
        return _facts(server, model, max_model_len)
    except Rejected as error:  # while a run is under way this is a failure, but now it is the wrong address
        raise UsageError(str(error)) from error


def _facts(server: Server, model: str, max_model_len: int) -> ServerFacts:
    url = server.url
    try:
        answer = server.call("/version", timeout_s=min(REPLY_TIMEOUT_S, server.give_up_after_s))
    except Unavailable as error:
        say(f"waiting for the vLLM server at {url} ({error})")
        answer = server.retry("/version", timeout_s=REPLY_TIMEOUT_S)
    check_version(read_answer(Version, answer, url).version, f"the server at {url}")
    served = read_answer(Models, server.retry("/v1/models", timeout_s=REPLY_TIMEOUT_S), url).data[0]
    if Path(model).name not in (Path(served.id).name, Path(served.root or "").name):
        raise UsageError(
            f"the server at {url} serves '{served.id}', but the run uses '{model}'; start the "
            "server with that model or, if both are the same, with --served-model-name "
            f"{Path(model).name}"
        )
    if served.max_model_len < max_model_len:
        raise UsageError(
            f"the server at {url} has a context of {served.max_model_len} tokens, but the run needs "
            f"{max_model_len}; start it with --max-model-len {max_model_len}, or lower the length limits"
        )
    weight_version, settings = _settings(server)
    mode = settings.model.logprobs_mode
    if mode != "processed_logprobs":
        raise UsageError(f"the server at {url} returns {mode}; start it with --logprobs-mode processed_logprobs")
    return ServerFacts(
        model=served.id,
        max_model_len=served.max_model_len,
        dtype=getattr(torch, settings.model.dtype.removeprefix("torch.")),
        weight_version=weight_version,
        transfer_backend=settings.transfer.backend if settings.transfer else None,
    )


def _settings(server: Server) -> tuple[str, ServerSettings]:
    """The weight version and vLLM's configuration, from endpoints that exist in development mode only."""
    try:
        weights = server.retry("/weight_info", timeout_s=REPLY_TIMEOUT_S)
        info = server.retry("/server_info?config_format=json", timeout_s=FIRST_INFO_TIMEOUT_S)
    except Rejected as error:
        raise UsageError(f"the server at {server.url} has no weight-update endpoints; start it with {SERVE}") from error
    version = read_answer(WeightInfo, weights, server.url).weight_version
    return version, read_answer(ServerInfo, info, server.url).settings
