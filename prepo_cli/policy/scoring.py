"""Log-probs and entropies of chosen tokens, without ever holding the logits of a whole batch.

Hidden states are gathered at the positions that predict a chosen token; only those pass through the output matrix, in
chunks (output_matrix.py). Where a module with hooks or adapters stands for the matrix, autograd goes through it, chunk
by chunk, and computes the logits again in the backward pass.

Axis letters: B rows, L padded length, G prefixes, P their padded length, M chosen tokens (row by row, left to right),
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prepo_cli.policy import output_matrix
from prepo_cli.policy.output_matrix import Head, Scaling, Tokens, Upstream, token_statistics
from prepo_cli.policy.plans import PADDED, Arrangement, Packing
from prepo_cli.policy.rows import Packs, Prefixes, Rows

MASKED = ("sdpa", "eager")
"""Implementations of attention that take a mask of any form. Others, as flash attention, find out from the positions
where a row begins, and compute nothing between rows; with these, masks would be made from positions."""


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
        self.shares_prefixes = self.splits and not _checkpoints(model) and _same(self, Arrangement(shared=True))
        """Whether prefixes may have a pass of their own. Layouts that gather weights by layer go through it once a
        pass, and gradient checkpointing keeps no keys and values: neither shares."""
        self.packing = packing_of(self)
        """How rows may be packed with a mask; None if they may not."""
        self.packs_whole = packs_whole(self)
        """Whether whole rows may be packed without one."""

    def forward(
        self, rows: Rows, with_entropy: bool = False, upstream: Upstream | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Score the chosen tokens of rows.

        Args:
            rows: token ids, and which to score.
            with_entropy: whether entropies are wanted too.
            upstream: the loss's gradient, if it follows from each token's log-prob; saves computing logits twice.

        Returns:
            log-probs [M] and, if requested, entropies [M] in nats, float32.
        """
        states_MD = self._states(rows).index_select(0, rows.state_M)  # not by indexing: see `_after_prefixes`
        return self._statistics(Tokens(states_MD, rows.target_M, rows.temperature_M), with_entropy, upstream)

    def _states(self, rows: Rows) -> Tensor:
        """The hidden states [B x L, D] of a pass, or logits of a model that does not split."""
        if rows.prefixes is not None:
            return self._after_prefixes(rows, rows.prefixes).flatten(0, 1)
        if self.splits:
            options = {} if rows.packs is None else self._of_packs(rows.packs)
            states_BLD: Tensor = self.backbone(input_ids=rows.ids_BL, use_cache=False, **options).last_hidden_state
        else:
            states_BLD = self.model(input_ids=rows.ids_BL, use_cache=False).logits
        return states_BLD.flatten(0, 1)

    def _of_packs(self, packs: Packs) -> dict[str, Tensor]:
        """What tells the model which tokens are of one row."""
        if packs.visible_B1LL is None:
            return {"position_ids": packs.position_BL}
        visible = packs.visible_B1LL
        if self.model.config._attn_implementation == "eager":  # which adds the mask
            hidden = torch.finfo(self.model.dtype).min
            visible = torch.zeros_like(visible, dtype=self.model.dtype).masked_fill_(~visible, hidden)
        return {"attention_mask": visible, "position_ids": packs.position_BL}

    def _after_prefixes(self, rows: Rows, prefixes: Prefixes) -> Tensor:
        """States [B, L, D]: the last one of each row's prefix, and those of what continues it but for the last."""
        mask_GP, of_row_B = prefixes.mask_GP, prefixes.of_row_B
        position_GP = mask_GP.cumsum(dim=1).sub(1).clamp(min=0)
        before = self.backbone(
            input_ids=prefixes.ids_GP, attention_mask=mask_GP, position_ids=position_GP, use_cache=True
        )
        cache = before.past_key_values
        for layer in cache.layers:  # not by indexing, whose gradient is summed by several threads in any order
            layer.keys, layer.values = layer.keys.index_select(0, of_row_B), layer.values.index_select(0, of_row_B)
        position_BL = mask_GP.sum(dim=1)[of_row_B, None] + torch.arange(rows.ids_BL.shape[1], device=of_row_B.device)
        states_BLD = self.backbone(
            input_ids=rows.ids_BL,
            attention_mask=torch.cat([mask_GP[of_row_B], prefixes.mask_BL], dim=1),
            position_ids=position_BL,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last_BD = before.last_hidden_state[:, -1].index_select(0, of_row_B)
        return torch.cat([last_BD[:, None], states_BLD[:, :-1]], dim=1)

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


def _checkpoints(model: nn.Module) -> bool:
    """Whether any layer recomputes its activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


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


@torch.no_grad()
def _same(scorer: TokenScorer, arrangement: Arrangement) -> bool:
    """Whether rows arranged in that way get the log-probs that they get alone, tried on a few tokens."""
    model = scorer.model
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    vocab_size = model.config.get_text_config().vocab_size
    rows = [[i % vocab_size for i in row] for row in ((1, 2, 3, 4, 5), (1, 2, 3, 6, 7, 5), (2, 3, 4), (5, 3, 1))]
    spans = [(3, 5), (3, 6), (1, 3), (2, 3)]
    padded, arranged = (Rows.of(rows, spans, [1.0] * 4, 0, device, way) for way in (PADDED, arrangement))
    try:
        alone_M, _ = scorer(padded)
        arranged_M, _ = scorer(arranged)
    except Exception:  # an architecture that keeps something else than keys and values fails in its own way
        return False
    finally:
        model.train(training)
    rounding = 1e-4 if model.dtype == torch.float32 else 0.2  # of a logit in bfloat16
    return bool((alone_M - arranged_M).abs().max() < rounding)


def packing_of(scorer: TokenScorer) -> Packing | None:
    """How rows are packed, if attention takes a mask of any form."""
    if not scorer.splits or scorer.model.config._attn_implementation not in MASKED:
        return None
    packing = Packing.of(scorer.model.config.get_text_config())
    return packing if _same(scorer, Arrangement(packs=(3, 1))) else None


def packs_whole(scorer: TokenScorer) -> bool:
    """Whether attention tells rows apart by their positions, and computes nothing between them."""
    if not scorer.splits or scorer.model.config._attn_implementation in MASKED:
        return False
    return _same(scorer, Arrangement(packs=(4,), whole=True))
