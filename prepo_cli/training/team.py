"""All processes of a run as one: work is shared out, results come back in order.

With one process every call goes straight to its learner. Rollouts are shared out by expected length, so that all
processes finish together; forward passes by padded tokens, each process making the same number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Progress, Request, Rollout
from prepo_cli.policy.policy import ScoreBatch, Scores, perplexities, score_batches
from prepo_cli.policy.scoring import token_batches
from prepo_cli.training.learner import Learner, Sums, add_sums
from prepo_cli.training.sample import Trainee


class Team:
    """What the main process asks of all; a generator among other things. `tokens_scored` counts what scoring took."""

    def __init__(self, processes: Processes, learner: Learner, max_batch_tokens: int) -> None:
        self.processes, self.learner, self.max_batch_tokens = processes, learner, max_batch_tokens
        self.tokens_scored = 0

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Rollout]]:
        """Rollouts of each request; with several processes progress comes at the end of each call."""
        if self.processes.count == 1 or self.learner.engine.serves_all:
            return self.learner.generate(requests, progress)
        shares = deal([expected_cost(request) for request in requests], self.processes.count)
        parts = self._call("generate", [([requests[i] for i in share],) for share in shares])
        results: list[Any] = [None] * len(requests)
        for share, part in zip(shares, parts, strict=True):
            for i, rollouts in zip(share, part, strict=True):
                results[i] = rollouts
        if progress is not None:
            progress(sum(len(request.seeds) for request in requests))
        return results

    def greedy(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Rollouts by the trainer's own weights; every process of a sharded policy takes part."""
        mine: list[list[Rollout]] = self._call("greedy", [(requests,), *[([],)] * (self.processes.count - 1)])[0]
        return mine

    def score(
        self,
        rows: list[list[int]],
        spans: list[tuple[int, int]],
        temperatures: list[float],
        with_entropy: bool = False,
        of_reference: bool = False,
    ) -> Scores:
        """Log-probs and entropies of each row's tokens in [start, end), under the policy or the reference."""
        self.tokens_scored += sum(map(len, rows))
        planned = list(score_batches(rows, spans, temperatures, self.max_batch_tokens, with_entropy))
        filler: tuple[list[int], ScoreBatch] = ([], ScoreBatch([[0, 0]], [(1, 2)], [1.0], with_entropy))
        shares = round_robin(planned, self.processes.count, filler)
        parts = self._call("score", [([batch for _, batch in share], of_reference) for share in shares])
        results: list[Any] = [None] * len(rows)
        for share, part in zip(shares, parts, strict=True):
            for (indices, _), scores in zip(share, part, strict=True):
                for i, score in zip(indices, scores, strict=False):  # a filler has a score and no index
                    results[i] = score
        return results

    def perplexity(self, rows: list[list[int]], spans: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """Perplexity and number of scored tokens of each row's span, [N, 2]."""
        scores = self.score(rows, spans, [1.0] * len(rows))
        return perplexities([logprobs for logprobs, _ in scores])

    def step(self, batch: Sequence[Trainee], over: float, learning_rate: float, step: int) -> Sums:
        """One optimiser step on all processes; sums over tokens."""
        indices = token_batches([len(t.ids) for t in batch], self.max_batch_tokens)
        micro_batches = [[batch[i] for i in micro] for micro in indices]
        shares = round_robin(micro_batches, self.processes.count, [])
        sums: Sums = {}
        for part in self._call("step", [(share, over, learning_rate, step) for share in shares]):
            sums = add_sums(sums, part)
        return sums

    def sync(self) -> None:
        """Hand every process's weights to its engine."""
        self._call("sync", [()] * self.processes.count)

    def save(self, folder: Path) -> None:
        """Model and optimiser into a checkpoint's folder."""
        self._call("save", [(str(folder),)] * self.processes.count)

    def export(self, folder: Path) -> None:
        """The whole model in the hub's format."""
        self._call("export", [(str(folder),)] * self.processes.count)

    def _call(self, method: str, shares: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self.processes.call(self.learner, method, shares)


def expected_cost(request: Request) -> float:
    """Tokens that a request will probably take: its prompt once, and each of its completions."""
    length = request.max_tokens if request.expected_tokens is None else request.expected_tokens
    return len(request.prompt_ids) + len(request.seeds) * min(length, request.max_tokens)


def deal(costs: Sequence[float], count: int) -> list[list[int]]:
    """Indices shared out over `count`, dearest first, each to whoever has least so far; in their order each."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += costs[i]
    return [sorted(share) for share in shares]


def round_robin(items: Sequence[Any], count: int, filler: Any) -> list[list[Any]]:
    """Items in turn, every share equally long."""
    padded = [*items, *[filler] * (-len(items) % count)]
    return [padded[number::count] for number in range(count)]
