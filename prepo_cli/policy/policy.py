"""The policy: a causal LM with its tokenizer, which scores tokens and exposes its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from prepo_cli.policy.adapters import hub_weights
from prepo_cli.policy.plans import PADDED, Arrangement, Plan, Span, cheapest
from prepo_cli.policy.rows import Rows

FloatArray = npt.NDArray[np.float32]
NOT_FINITE = (
    "the model's log-probs are not finite: its weights are corrupt, or overflow its dtype; check "
    "the model, or try --dtype float32 (training: model.dtype=float32) or a lower "
    "training.learning_rate"
)
CPU_TOKENS = 4096
"""Padded tokens that a CPU scores at once: a small model's activations of more leave its caches, and are so large that
the kernel maps and zeroes memory anew for each."""


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Rows scored in one forward pass: the tokens in [start, end) of each, except a row's first token."""

    rows: list[list[int]]
    spans: list[Span]
    temperatures: list[float]
    with_entropy: bool = False
    arrangement: Arrangement = PADDED


Scores = list[tuple[FloatArray, FloatArray | None]]
"""Log-probs and, if requested, entropies (nats) of each row's scored tokens, float32."""


@dataclass(frozen=True)
class ModelSpec:
    """A model without its weights, for engines that load these themselves; `source` is its folder or hub name."""

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]
    max_context: int | None
    source: str


@dataclass
class Policy:
    """A causal LM with its tokenizer.

    `adapter` is the peft model around it, if any; `source` is the folder or hub name it was loaded from.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    scorer: Any
    device: torch.device
    eos_token_ids: frozenset[int]
    pad_token_id: int
    adapter: Any | None = None
    source: str = ""

    @property
    def max_context(self) -> int | None:
        """Maximum tokens of prompt and completion together; None if the model states no limit."""
        return max_context_of(self.model.config)

    @property
    def vocab_size(self) -> int:
        """Size of the output distribution."""
        return int(self.scorer.vocab_size)

    @torch.no_grad()
    def score_batch(self, batch: ScoreBatch) -> Scores:
        """One padded forward pass, or two where prefixes are shared."""
        self.scorer.eval()
        rows = Rows.of(batch.rows, batch.spans, batch.temperatures, self.pad_token_id, self.device, batch.arrangement)
        logprob_M, entropy_M = self.scorer(rows, batch.with_entropy)
        counts = list(rows.counts)
        logprobs = [part.numpy() for part in logprob_M.cpu().split(counts)]
        if not batch.with_entropy:
            return [(part, None) for part in logprobs]
        return list(zip(logprobs, (part.numpy() for part in entropy_M.cpu().split(counts)), strict=True))

    def score(
        self,
        rows: list[list[int]],
        spans: list[Span],
        temperatures: list[float],
        max_batch_tokens: int,
        with_entropy: bool = False,
    ) -> Scores:
        """Log-probs and entropies of each row's tokens in [start, end), except the first token of a row."""
        results: list[Any] = [None] * len(rows)
        if self.device.type == "cpu":
            max_batch_tokens = min(max_batch_tokens, CPU_TOKENS)
        for indices, batch in self.score_batches(rows, spans, temperatures, max_batch_tokens, with_entropy):
            for i, scores in zip(indices, self.score_batch(batch), strict=True):
                results[i] = scores
        return results

    def score_batches(
        self,
        rows: list[list[int]],
        spans: list[Span],
        temperatures: list[float],
        max_batch_tokens: int,
        with_entropy: bool = False,
    ) -> Iterator[tuple[list[int], ScoreBatch]]:
        """Batches of at most `max_batch_tokens` padded tokens, longest rows first, with the indices of their rows.

        Rows end with their spans: nothing that is scored depends on tokens after them.
        """
        rows = [row[: max(end, 1)] for row, (_, end) in zip(rows, spans, strict=True)]
        for planned in self.plan(rows, spans, max_batch_tokens).batches:
            batch = ScoreBatch(
                [rows[i] for i in planned.rows],
                [spans[i] for i in planned.rows],
                [temperatures[i] for i in planned.rows],
                with_entropy,
                planned.arrangement,
            )
            yield planned.rows, batch

    def plan(self, rows: Sequence[Sequence[int]], spans: Sequence[Span], max_batch_tokens: int) -> Plan:
        """Batches of rows that end with their spans, arranged so that the least is computed."""
        scorer = self.scorer
        return cheapest(rows, spans, max_batch_tokens, scorer.shares_prefixes, scorer.packing, scorer.packs_whole)

    def perplexity(
        self, token_ids: list[list[int]], spans: list[Span], max_batch_tokens: int
    ) -> npt.NDArray[np.float64]:
        """Perplexity and number of scored tokens of each row's span, [N, 2]; NaN where no token can be scored."""
        scores = self.score(token_ids, spans, [1.0] * len(token_ids), max_batch_tokens)
        return perplexities([logprobs for logprobs, _ in scores])

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Unsharded weights under the hub's names, adapters merged, for engines and exports."""
        return hub_weights(self.model)


def perplexities(logprobs: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
    """Perplexity and number of scored tokens of each row [N, 2]; NaN where there is none.

    P = exp(-(1/T) sum log p(x_t | x_<t)) at temperature 1 (PREPO, 2511.00794); nothing predicts token 0.

    >>> perplexities([np.log(np.array([0.5, 0.125], dtype=np.float32))]).round(4)  # geometric mean of 2 and 8
    array([[4., 2.]])
    """
    result_N2 = np.full((len(logprobs), 2), np.nan)
    for i, row in enumerate(logprobs):
        result_N2[i, 1] = len(row)
        if len(row):
            result_N2[i, 0] = np.exp(-np.mean(row, dtype=np.float64))
    return result_N2


def max_context_of(settings: Any) -> int | None:
    """The context length that a model configuration states; None if it states none."""
    limit = getattr(settings.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None
