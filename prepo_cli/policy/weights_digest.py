"""A digest of weights that a run needs but does not save: the base of adapters, or the reference of the KL term."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SAMPLES = 256
ADAPTER = "lora_"


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """Digest of every weight's name, shape and type, and of evenly spaced samples of its values; adapters are left out.

    Reading all of 100 GB would take minutes. Another model, or the same one trained further, differs in most samples;
    a change of a few single values may be missed.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        if ADAPTER in name:
            continue
        # peft renames the layers that it wraps.
        digest.update(f"{name.replace('base_layer.', '')} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().reshape(-1)
        count = min(len(flat), SAMPLES)
        at = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
        digest.update(flat[at].double().cpu().numpy().tobytes())
    return digest.hexdigest()
