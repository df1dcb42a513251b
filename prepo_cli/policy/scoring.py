"""Log-probs and entropies of chosen tokens, without ever holding the logits of a whole batch.

Hidden states are gathered at the positions that predict a chosen token; only those pass through the output matrix,
in chunks whose logits are recomputed in the backward pass. Softmax statistics are computed in float32.

Axis letters: B rows, L padded length, M chosen tokens (row by row, left to right), D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits held at once (128 MiB in float32)."""


class TokenScorer(nn.Module):
    """A causal LM as a function from tokens to log-probs and entropies, which the trainer differentiates."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])  # read before sharding changes the shape
        self.common_chunk_count: Callable[[int], int] = int
        """Maps this batch's number of chunks to the number that every process runs. ZeRO stage 3 gathers the output
        matrix for each chunk, so all processes must run the same number."""
        self.splits = False
        self.splits = _splits_cleanly(self)

    def forward(
        self, ids_BL: Tensor, mask_BL: Tensor, chosen_BL: Tensor, temperature_B: Tensor, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Score chosen tokens of right-padded rows.

        Args:
            ids_BL: token ids; mask_BL: true on tokens; chosen_BL: true on the tokens to score (never column 0).
            temperature_B: divides the logits of each row.

        Returns:
            log-probs [M] and, if requested, entropies [M] in nats, float32.
        """
        attention = None if bool(mask_BL.all()) else mask_BL
        row_M, column_M = chosen_BL[:, 1:].nonzero(as_tuple=True)
        target_M = ids_BL[row_M, column_M + 1]
        temperature_M = temperature_B[row_M]
        if self.splits:
            states_BLD = self.backbone(input_ids=ids_BL, attention_mask=attention, use_cache=False).last_hidden_state
            states_MD = states_BLD[row_M, column_M]
        else:
            logits_BLV = self.model(input_ids=ids_BL, attention_mask=attention, use_cache=False).logits
            states_MD = logits_BLV[row_M, column_M]
        return self._head_statistics(states_MD, target_M, temperature_M, with_entropy)

    @property
    def backbone(self) -> Any:
        """The model below its output matrix."""
        return getattr(self.model, self.model.base_model_prefix)

    def logits(self, states_MD: Tensor) -> Tensor:
        """Logits [M, V] of hidden states, as the architecture scales and caps them."""
        if not self.splits:
            return states_MD
        return scale_logits(self.model.get_output_embeddings()(states_MD), self.model.config)

    def _head_statistics(
        self, states_MD: Tensor, target_M: Tensor, temperature_M: Tensor, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        size = max(1, CHUNK_ELEMENTS // self.vocab_size)
        num_chunks = self.common_chunk_count(max(1, -(-len(target_M) // size)))
        logprobs, entropies = [], []
        for number in range(num_chunks):
            part = slice(number * size, (number + 1) * size)
            inputs = (states_MD[part], target_M[part], temperature_M[part])
            if torch.is_grad_enabled() and num_chunks > 1:
                logprob, entropy = checkpoint(self._chunk, *inputs, with_entropy, use_reentrant=False)
            else:
                logprob, entropy = self._chunk(*inputs, with_entropy)
            logprobs.append(logprob)
            entropies.append(entropy)
        return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None

    def _chunk(
        self, states_MD: Tensor, target_M: Tensor, temperature_M: Tensor, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits_MV = self.logits(states_MD).float() / temperature_M[:, None]
        normalizer_M = torch.logsumexp(logits_MV, dim=-1)
        logprob_M = logits_MV.gather(1, target_M[:, None])[:, 0] - normalizer_M
        if not with_entropy:
            return logprob_M, None
        with torch.no_grad():
            expected_M = (torch.softmax(logits_MV, dim=-1) * logits_MV).sum(dim=-1)
            return logprob_M, normalizer_M.detach() - expected_M


def scale_logits(logits: Tensor, config: Any) -> Tensor:
    """Apply what some architectures do after the output matrix: Gemma's cap, Cohere's and Granite's scale."""
    scale = getattr(config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, L] and their mask."""
    width = max(map(len, rows))
    ids_BL = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BL[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    lengths_B = torch.tensor([len(row) for row in rows])
    return ids_BL.to(device), (torch.arange(width)[None] < lengths_B[:, None]).to(device)


def spans_mask(spans: Sequence[tuple[int, int]], width: int, device: Any) -> Tensor:
    """Mask [B, L], true on each row's [start, end) but never on column 0, which nothing predicts."""
    bounds_B2 = torch.tensor(spans, dtype=torch.long).reshape(-1, 2)
    position_L = torch.arange(width)
    return ((position_L >= bounds_B2[:, :1].clamp(min=1)) & (position_L < bounds_B2[:, 1:])).to(device)


def token_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices grouped, longest first, so that rows x longest row <= max_tokens; a row above that is alone.

    >>> list(token_batches([3, 9, 4, 4], max_tokens=9))
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(lengths[order[start]], 1))
        yield order[start : start + count]
        start += count


@torch.no_grad()
def _splits_cleanly(scorer: TokenScorer) -> bool:
    """Whether backbone and output matrix reproduce the model's own logits, tried on a few tokens."""
    model = scorer.model
    if not hasattr(model, model.base_model_prefix) or model.get_output_embeddings() is None:
        return False
    training = model.training
    model.eval()
    vocab_size = model.config.get_text_config().vocab_size
    ids_BL = torch.arange(1, 6, device=next(model.parameters()).device)[None] % vocab_size
    own_BLV = model(input_ids=ids_BL, use_cache=False).logits
    states_BLD = scorer.backbone(input_ids=ids_BL, use_cache=False).last_hidden_state
    split_BLV = scale_logits(model.get_output_embeddings()(states_BLD), model.config)
    model.train(training)
    return bool(torch.allclose(own_BLV.float(), split_BLV.float(), rtol=1e-3, atol=1e-4))
