"""The generation engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prepo_cli.sections.base import Section


class EngineConfig(Section):
    """The generation engine."""

    name: Literal["hf", "vllm", "vllm-server"] = Field(
        "hf", description="hf: transformers in process; vllm: vLLM in process; vllm-server: a running vLLM server"
    )
    max_batch_tokens: int = Field(131072, ge=1, description="hf: limit on rows x context in one decoding batch")
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="vllm: share of the GPU's memory")
    vllm_tensor_parallel_size: int = Field(1, ge=1, description="vllm: number of GPUs per engine")
    vllm_max_model_length: int | None = Field(
        None, ge=2, description="vllm: context length in tokens; by default what the run needs"
    )
    vllm_max_num_seqs: int = Field(256, ge=1, description="vllm: rollouts decoded concurrently")
    vllm_enforce_eager: bool = Field(False, description="vllm: disable compilation and CUDA graphs")
    vllm_enable_sleep_mode: bool = Field(True, description="vllm: free its memory during the update (GPUs only)")
    vllm_server_base_url: str = Field("http://127.0.0.1:8000", description="vllm-server: its URL")
    vllm_server_timeout_s: float = Field(
        240.0, gt=0, description="vllm-server: how long to wait for an unreachable server, in seconds"
    )
    vllm_weight_sync: Literal["auto", "nccl", "disk"] = Field(
        "auto", description="vllm-server: how new weights are transferred; auto uses nccl on GPUs, else disk"
    )
    vllm_sync_dir: str | None = Field(
        None, description="vllm-server: folder that trainer and server share; by default in the run folder"
    )
    vllm_importance_sampling_mode: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field("token_truncate", description="correction for the gap between the engine's log-probs and the trainer's")
    vllm_importance_sampling_cap: float = Field(2.0, ge=1, description="upper limit of the ratio trainer / engine")
    vllm_max_logp_difference: float = Field(
        0.5, gt=0, description="largest mean gap over a step between the engine's log-probs and the trainer's"
    )
