"""All processes of a run as one: work is split, results come back in order.

With one process every call goes straight to its learner. Rollouts are split by expected length, so that all processes
finish together; forward passes are batched by padded tokens, the same number of batches for each process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Finished, Request, Rollout
from prepo_cli.errors import RunError
from prepo_cli.policy.plans import PADDED, Span
from prepo_cli.policy.policy import NOT_FINITE, ScoreBatch, Scores, perplexities
from prepo_cli.training.learner import Learner
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.update_stats import UpdateStats


class Team:
    """The learners of all processes as one. `tokens_scored` counts the tokens of scoring passes that are charged."""

    def __init__(self, processes: Processes, learner: Learner, max_batch_tokens: int) -> None:
        self.processes, self.learner, self.max_batch_tokens = processes, learner, max_batch_tokens
        self.tokens_scored = 0

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """Rollouts of each request; where each process has an engine, `finished` is called at the end.

        Raises:
            RunError: a log-prob isn't finite.
        """
        results = self._generate(requests, finished)
        refuse_infinite(rollout.logprobs for group in results for rollout in group)
        return results

    def _generate(self, requests: Sequence[Request], finished: Finished | None) -> list[list[Rollout]]:
        if self.processes.count == 1 or self.learner.engine.serves_all:
            return self.learner.generate(requests, finished)
        shares = split_by_cost([expected_cost(request) for request in requests], self.processes.count)
        parts = self.processes.call(self.learner.generate, [([requests[i] for i in share], None) for share in shares])
        results: list[Any] = [None] * len(requests)
        for share, part in zip(shares, parts, strict=True):
            for i, rollouts in zip(share, part, strict=True):
                results[i] = rollouts
        if finished is not None:
            for r, group in enumerate(results):
                for number, rollout in enumerate(group):
                    finished(r, number, rollout)
        return results

    def greedy(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Rollouts by the trainer's own weights; every process of a sharded policy takes part."""
        shares: list[tuple[Sequence[Request]]] = [(requests,), *[([],)] * (self.processes.count - 1)]
        return self.processes.call(self.learner.greedy, shares)[0]

    def score(
        self,
        rows: list[list[int]],
        spans: list[Span],
        temperatures: list[float],
        with_entropy: bool = False,
        of_reference: bool = False,
        charged: bool = True,
    ) -> Scores:
        """Log-probs and entropies of each row's tokens in [start, end), under the policy or the reference.

        Raises:
            RunError: a log-prob isn't finite.
        """
        if charged:
            self.tokens_scored += sum(end for _, end in spans)
        policy = self.learner.policy
        planned = list(policy.score_batches(rows, spans, temperatures, self.max_batch_tokens, with_entropy))
        filler: tuple[list[int], ScoreBatch] = ([], ScoreBatch([[0, 0]], [(1, 2)], [1.0], with_entropy))
        shares = round_robin(planned, self.processes.count, filler)
        parts = self.processes.call(
            self.learner.score, [([batch for _, batch in share], of_reference) for share in shares]
        )
        results: list[Any] = [None] * len(rows)
        for share, part in zip(shares, parts, strict=True):
            for (indices, _), scores in zip(share, part, strict=True):
                for i, score in zip(indices, scores, strict=False):  # a filler has a score and no index
                    results[i] = score
        refuse_infinite(logprobs for logprobs, _ in results)
        return results

    def perplexity(self, rows: list[list[int]], spans: list[Span]) -> npt.NDArray[np.float64]:
        """Perplexity and number of scored tokens of each row's span, [N, 2]."""
        scores = self.score(rows, spans, [1.0] * len(rows))
        return perplexities([logprobs for logprobs, _ in scores])

    def step(
        self, batch: Sequence[TrainingSample], divisor: float, learning_rate: float, step: int, with_entropy: bool
    ) -> UpdateStats:
        """One optimizer step on all processes."""
        rows, spans = [sample.ids for sample in batch], [(sample.start, len(sample.ids)) for sample in batch]
        plan = self.learner.policy.plan(rows, spans, self.max_batch_tokens)
        micro_batches = [([batch[i] for i in planned.rows], planned.arrangement) for planned in plan.batches]
        shares = round_robin(micro_batches, self.processes.count, ([], PADDED))
        calls = [(share, divisor, learning_rate, step, with_entropy) for share in shares]
        return sum(self.processes.call(self.learner.step, calls), start=UpdateStats())

    def sync(self) -> None:
        """Send every process's weights to its engine."""
        self.processes.call(self.learner.sync, [()] * self.processes.count)

    def save(self, folder: Path) -> None:
        """Save model and optimizer into a checkpoint's folder."""
        self.processes.call(self.learner.save, [(str(folder),)] * self.processes.count)

    def export(self, folder: Path) -> None:
        """Save the full model in the hub's format."""
        self.processes.call(self.learner.export, [(str(folder),)] * self.processes.count)

    def take_tokens_scored(self) -> int:
        """Tokens scored since the last call."""
        total, self.tokens_scored = self.tokens_scored, 0
        return total


def refuse_infinite(rows: Iterable[npt.NDArray[np.float32]]) -> None:
    """Raise RunError if a log-prob isn't finite; nothing after it would mean anything."""
    if not all(np.isfinite(row).all() for row in rows):
        raise RunError(NOT_FINITE)


def expected_cost(request: Request) -> float:
    """Expected number of tokens of a request: its prompt once, plus each of its completions."""
    length = request.max_tokens if request.expected_tokens is None else request.expected_tokens
    return len(request.prompt_ids) + len(request.seeds) * min(length, request.max_tokens)


def split_by_cost(costs: Sequence[float], count: int) -> list[list[int]]:
    """Indices in `count` shares of about equal cost: the most expensive first, each to the share with the least so far.

    >>> split_by_cost([5, 1, 1, 4], 2)
    [[0, 2], [1, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += costs[i]
    return [sorted(share) for share in shares]


def round_robin(items: Sequence[Any], count: int, filler: Any) -> list[list[Any]]:
    """Deal the items out in turn; fillers make all shares equally long.

    >>> round_robin([1, 2, 3], 2, 0)
    [[1, 3], [2, 0]]
    """
    padded = [*items, *[filler] * (-len(items) % count)]
    return [padded[number::count] for number in range(count)]
