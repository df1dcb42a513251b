"""The generation engines.

A server's address may hold credentials. They stay in memory: wherever the configuration is written or shown, the
address is redacted, and `ADDRESS_VARIABLE` gives it in full to a run that reads its configuration from a file.
"""

from __future__ import annotations

import os
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_serializer, field_validator

from prepo_cli.sections.base import Section
from prepo_cli.text import redacted

ADDRESS_VARIABLE = "PREPO_VLLM_SERVER_URL"
LOCAL = "http://127.0.0.1:8000"
NOT_AN_ADDRESS = (
    "engine.vllm_server_base_url is not a server's address; write http://HOST:PORT, an IPv6 host as "
    "http://[::1]:8000, and percent-encode special characters in a password"
)
"""Without the address, as it may be a special character of its password that breaks it."""


def is_address(address: str) -> bool:
    """Whether this is an http or https address.

    >>> is_address("http://me:secret@[::1]:8000/v1"), is_address("localhost:8000"), is_address("http://me:1/b@host")
    (True, False, False)
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and "@" not in f"{parts.path}{parts.query}{parts.fragment}"  # of a password with a slash
    except ValueError:  # a port that is no number, or a broken IPv6 address
        return False
    return usable and address.isascii() and address.isprintable() and " " not in address


class EngineConfig(Section):
    """The generation engine."""

    name: Literal["hf", "vllm", "vllm-server"] = Field(
        "hf", description="hf: transformers in process; vllm: vLLM in process; vllm-server: a running vLLM server"
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        le=2**40,
        description="hf: maximum rows x context length of a decoding batch; by default, half the free memory",
    )
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="vllm: fraction of GPU memory to use")
    vllm_tensor_parallel_size: int = Field(
        1, ge=1, le=1024, description="vllm: number of GPUs per engine (tensor parallelism)"
    )
    vllm_max_model_length: int | None = Field(
        None, ge=2, le=2**24, description="vllm: context length in tokens; by default what the run needs"
    )
    vllm_max_num_seqs: int = Field(256, ge=1, le=2**20, description="vllm: maximum rollouts decoded concurrently")
    vllm_enforce_eager: bool = Field(False, description="vllm: disable compilation and CUDA graphs")
    vllm_enable_sleep_mode: bool = Field(True, description="vllm: free GPU memory during updates")
    vllm_server_base_url: str = Field(
        default_factory=lambda: os.environ.get(ADDRESS_VARIABLE) or LOCAL,
        repr=False,
        json_schema_extra={"default": LOCAL},
        description=f"vllm-server: server URL, by default from ${ADDRESS_VARIABLE}; credentials are not stored",
    )
    vllm_server_timeout_s: float = Field(
        240.0, gt=0, le=86_400, description="vllm-server: seconds to keep retrying an unreachable server"
    )
    vllm_weight_sync: Literal["auto", "nccl", "disk"] = Field(
        "auto", description="vllm-server: how new weights are transferred; auto uses nccl on GPUs, else disk"
    )
    vllm_sync_dir: str | None = Field(
        None, description="vllm-server: folder shared by trainer and server; by default in the run folder"
    )
    vllm_importance_sampling_mode: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field(
        "token_truncate",
        description="importance-sampling correction for differences between engine and trainer log-probs",
    )
    vllm_importance_sampling_cap: float = Field(
        2.0, ge=1, le=1e6, description="upper limit of the importance ratio trainer / engine"
    )
    vllm_max_logp_difference: float = Field(
        0.5,
        gt=0,
        le=1e6,
        description="stop if engine and trainer log-probs differ by more than this on average over a step",
    )

    @property
    def secret_environment(self) -> dict[str, str]:
        """Environment variables that a process needs if it reads this configuration from a file."""
        address = self.vllm_server_base_url
        return {} if redacted(address) == address else {ADDRESS_VARIABLE: address}

    @field_validator("vllm_server_base_url")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if not is_address(address):
            raise ValueError(NOT_AN_ADDRESS)
        return address

    @field_serializer("vllm_server_base_url")
    def _without_credentials(self, address: str) -> str:
        return redacted(address)
