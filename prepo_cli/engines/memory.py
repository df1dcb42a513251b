"""How many tokens' keys and values fit into memory."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from prepo_cli.engines.kv_cache import growing_cache
from prepo_cli.machine import free_memory
from prepo_cli.policy.policy import Policy

SHARE = 0.5
"""The part of free memory that the cache may fill; the rest is for logits, activations and copies."""


def tokens_that_fit(device: torch.device, bytes_per_token: int) -> int:
    """Tokens for which there is room now, rounded down to a power of two so that it rarely differs between runs."""
    tokens = SHARE * free_bytes(device) / bytes_per_token
    return 1 << max(0, int(tokens).bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """What this process may still allocate on the device; the host's memory is divided among its processes."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@torch.inference_mode()
def cache_bytes_per_token(policy: Policy) -> int:
    """What the cache keeps for a token in all layers, tried on one; sliding windows keep no more than their length."""
    cache: Any = growing_cache(policy.model.config)
    ids = torch.tensor([[policy.pad_token_id]], device=policy.device)
    policy.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    layers: list[Any] = [layer for layer in cache.layers if isinstance(layer, DynamicLayer) and layer.is_initialized]
    return max(1, sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers))
