"""Prefill: the keys and values of whole contexts, and the logits of the token that follows each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from prepo_cli.engines.kv_cache import can_regroup, growing_cache
from prepo_cli.policy.plans import plan

BATCH_TOKENS = 8192
"""Padded tokens of contexts that are computed together; longer ones are computed alone."""
ELEMENTS = 2**27
"""Attention scores, or values in a layer's MLP, computed at once (512 MiB in float32): how long a chunk may be."""


def prefill(model: Any, contexts: Sequence[Sequence[int]], pad_id: int, device: Any) -> Iterator[Prefilled]:
    """Compute contexts in batches of similar length.

    Yields:
        the indices of a batch's P contexts, their cache, aligned at the last tokens, and the logits [P, V].
    """
    whole = not can_regroup(growing_cache(model.config))  # such caches take one prefill, in one piece
    lengths = [len(context) for context in contexts]
    everything = [list(range(len(contexts)))] if contexts else []
    for batch in everything if whole else [batch.rows for batch in plan(lengths, BATCH_TOKENS).batches]:
        yield batch, *_batch(model, [contexts[i] for i in batch], pad_id, device, whole)


Prefilled = tuple[list[int], DynamicCache, Tensor]


def _batch(
    model: Any, contexts: Sequence[Sequence[int]], pad_id: int, device: Any, whole: bool
) -> tuple[DynamicCache, Tensor]:
    width = max(map(len, contexts))
    ids_PL = torch.full((len(contexts), width), pad_id, dtype=torch.long)
    for p, context in enumerate(contexts):
        ids_PL[p, width - len(context) :] = torch.as_tensor(context, dtype=torch.long)
    length_P1 = torch.tensor([[len(context)] for context in contexts])
    mask_PL = (torch.arange(width)[None] >= width - length_P1).long()
    ids_PL, mask_PL = ids_PL.to(device), mask_PL.to(device)
    position_PL = (mask_PL.cumsum(dim=1) - 1).clamp(min=0)
    size = width if whole else _chunk(model.config, len(contexts), width)
    cache = growing_cache(model.config)
    for start in range(0, width, size):
        part = slice(start, start + size)
        logits_PV = model(
            input_ids=ids_PL[:, part],
            attention_mask=mask_PL[:, : part.stop],
            position_ids=position_PL[:, part],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return cache, logits_PV


def _chunk(config: Any, count: int, width: int) -> int:
    """How many tokens of each of `count` contexts are computed at once.

    torch's attention holds no scores, and takes half the time, where it needs no mask: for a context that is alone, and
    in one piece.
    """
    text = config.get_text_config()
    values = int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    if count == 1 and config._attn_implementation == "sdpa" and width * values <= ELEMENTS:
        return width
    return max(1, ELEMENTS // (count * int(getattr(text, "num_attention_heads", 1)) * width))
