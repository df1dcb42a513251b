"""Log-probs and entropies of chosen tokens, without ever holding the logits of a whole batch.

Hidden states are gathered at the positions that predict a chosen token; only those pass through the output matrix, in
chunks (output_matrix.py). Where a module with hooks or adapters stands for the matrix, autograd goes through it, chunk
by chunk, and computes the logits again in the backward pass.

Axis letters: B rows, L padded length, M chosen tokens (row by row, left to right), D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prepo_cli.policy import output_matrix
from prepo_cli.policy.output_matrix import Head, Scaling, Tokens, Upstream, token_statistics

BATCH_OVERHEAD = 512
"""What a batch costs besides its tokens, as a number of tokens: Python, launches, matrices read once more."""


class TokenScorer(nn.Module):
    """A causal LM as a function from tokens to log-probs and entropies, which the trainer differentiates."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])  # read before sharding changes the shape
        self.common_chunk_count: Callable[[int], int] = int
        """Maps this batch's number of chunks to the number that every process runs. ZeRO stage 3 gathers the output
        matrix for each chunk, so all processes must run the same number."""
        self.scaling = Scaling.of(model.config)
        self.splits = False
        self.splits = _splits_cleanly(self)

    def forward(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        chosen_BL: Tensor,
        temperature_B: Tensor,
        with_entropy: bool = False,
        upstream: Upstream | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Score chosen tokens of right-padded rows.

        Args:
            ids_BL: token ids; mask_BL: true on tokens; chosen_BL: true on the tokens to score (never column 0).
            temperature_B: divides the logits of each row.
            upstream: the loss's gradient, if it follows from each token's log-prob; saves computing logits twice.

        Returns:
            log-probs [M] and, if requested, entropies [M] in nats, float32.
        """
        attention = None if bool(mask_BL.all()) else mask_BL
        row_M, column_M = chosen_BL[:, 1:].nonzero(as_tuple=True)
        target_M = ids_BL[row_M, column_M + 1]
        if self.splits:
            states_BLD = self.backbone(input_ids=ids_BL, attention_mask=attention, use_cache=False).last_hidden_state
            states_MD = states_BLD[row_M, column_M]
        else:
            logits_BLV = self.model(input_ids=ids_BL, attention_mask=attention, use_cache=False).logits
            states_MD = logits_BLV[row_M, column_M]
        return self._statistics(Tokens(states_MD, target_M, temperature_B[row_M]), with_entropy, upstream)

    @property
    def backbone(self) -> Any:
        """The model below its output matrix."""
        return getattr(self.model, self.model.base_model_prefix)

    def _statistics(
        self, tokens: Tokens, with_entropy: bool, upstream: Upstream | None
    ) -> tuple[Tensor, Tensor | None]:
        linear = self.model.get_output_embeddings()
        if self.splits and _is_plain(linear):
            return token_statistics(Head(linear.weight, linear.bias, self.scaling), tokens, with_entropy, upstream)
        size = max(1, output_matrix.CHUNK_ELEMENTS // self.vocab_size)
        num_chunks = self.common_chunk_count(max(1, -(-len(tokens.target_M) // size)))
        logprobs, entropies = [], []
        for number in range(num_chunks):
            part = slice(number * size, (number + 1) * size)
            inputs = (tokens.states_MD[part], tokens.target_M[part], tokens.temperature_M[part])
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
        """The statistics by autograd, of whatever module stands for the output matrix."""
        logits_MV = states_MD
        if self.splits:
            logits_MV = self.scaling.apply(self.model.get_output_embeddings()(states_MD))
        logits_MV = logits_MV.float() / temperature_M[:, None]
        normalizer_M = torch.logsumexp(logits_MV, dim=-1)
        logprob_M = logits_MV.gather(1, target_M[:, None])[:, 0] - normalizer_M
        if not with_entropy:
            return logprob_M, None
        with torch.no_grad():
            expected_M = (torch.softmax(logits_MV, dim=-1) * logits_MV).sum(dim=-1)
            return logprob_M, normalizer_M.detach() - expected_M


def _is_plain(head: Any) -> bool:
    """Whether the module does nothing but multiply by its matrix, which this process holds.

    ZeRO stage 3 gathers the matrix in the module's own call; adapters and quantization replace the module.
    """
    hooked = type(head) is nn.Linear and (head._forward_hooks or head._forward_pre_hooks)
    return type(head) is nn.Linear and not hooked and not hasattr(head.weight, "ds_id")


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
    """Indices grouped, longest first, so that the least is computed, padding and each batch's overhead included.

    Each has rows x longest row <= max_tokens; a row above that is alone.

    >>> list(token_batches([3000, 9000, 4000, 4000], max_tokens=9000))
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    count = len(order)
    cost = np.zeros(count + 1)  # of the batches from the i-th longest row on
    end = np.zeros(count, dtype=np.int64)  # of the first of them
    for i in reversed(range(count)):
        longest = max(lengths[order[i]], 1)
        most = min(max(1, max_tokens // longest), count - i)
        totals = np.arange(1, most + 1) * longest + cost[i + 1 : i + most + 1]
        best = int(totals.argmin())
        cost[i], end[i] = totals[best] + BATCH_OVERHEAD, i + 1 + best
    start = 0
    while start < count:
        yield order[start : end[start]]
        start = int(end[start])


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
    split_BLV = scorer.scaling.apply(model.get_output_embeddings()(states_BLD))
    model.train(training)
    return bool(torch.allclose(own_BLV.float(), split_BLV.float(), rtol=1e-3, atol=1e-4))
