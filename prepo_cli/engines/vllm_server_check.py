"""Check that a running vLLM server is set up for this run: version, model, context, weight endpoints and log-probs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prepo_cli.engines.vllm_common import check_version
from prepo_cli.engines.vllm_http import Rejected, Server, Unavailable
from prepo_cli.errors import UsageError
from prepo_cli.terminal import say

REPLY_TIMEOUT_S = 30.0
"""For calls that generate nothing."""
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
    url = server.url
    try:
        version = server.call("/version", timeout_s=REPLY_TIMEOUT_S)["version"]
    except Unavailable:
        say(f"waiting for the vLLM server at {url}")
        version = server.retry("/version", timeout_s=REPLY_TIMEOUT_S)["version"]
    check_version(version, f"the server at {url}")
    served = server.retry("/v1/models", timeout_s=REPLY_TIMEOUT_S)["data"][0]
    if Path(model).name not in (Path(served["id"]).name, Path(served.get("root") or "").name):
        raise UsageError(
            f"the server at {url} serves '{served['id']}', but the run uses '{model}'; start the server with that "
            f"model or, if it is the same one, with --served-model-name {Path(model).name}"
        )
    if int(served["max_model_len"]) < max_model_len:
        raise UsageError(
            f"the server at {url} has a context of {served['max_model_len']} tokens, but the run needs "
            f"{max_model_len}; start it with --max-model-len {max_model_len}, or lower the length limits"
        )
    weight_version, settings = _settings(server)
    mode = settings["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise UsageError(f"the server at {url} returns {mode}; start it with --logprobs-mode processed_logprobs")
    return ServerFacts(
        model=served["id"],
        max_model_len=int(served["max_model_len"]),
        dtype=getattr(torch, str(settings["model_config"]["dtype"]).removeprefix("torch.")),
        weight_version=weight_version,
        transfer_backend=(settings.get("weight_transfer_config") or {}).get("backend"),
    )


def _settings(server: Server) -> tuple[str, dict[str, Any]]:
    """The weight version and vLLM's configuration, from endpoints that exist in development mode only."""
    try:
        version = server.retry("/weight_info", timeout_s=REPLY_TIMEOUT_S)["weight_version"]
        info = server.retry("/server_info?config_format=json", timeout_s=FIRST_INFO_TIMEOUT_S)
    except Rejected as error:
        raise UsageError(f"the server at {server.url} has no endpoints for weights; start it with {SERVE}") from error
    return str(version), dict(info["vllm_config"])
