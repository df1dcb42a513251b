"""Whether a separate engine has the trainer's weights: greedy answers of both are compared, token by token.

An engine that took only part of the weights answers without an error, and wrongly. Where two tokens are about equally
likely to the trainer, rounding may decide between them, and what follows is not compared. These checks are not charged
to the run (see costs.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prepo_cli.engines.base import Request
from prepo_cli.errors import RunError
from prepo_cli.sections import RunConfig
from prepo_cli.training.prompts import Prompts
from prepo_cli.training.team import Team

CHECKED_SYNCS = 3
"""Weight syncs after which answers are compared: the first one, and those after two updates."""
CHECKED_PROMPTS = 4
TOKENS = 16
FAULT = "the engine has other weights than the trainer"
CURE = "the weight sync failed, try --engine hf"
TIE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.25}
"""Log-probs (nats) this close may swap places in another engine's rounding."""


class EngineMonitor:
    """Watches an engine that has weights of its own."""

    def __init__(self, config: RunConfig, team: Team, prompts: Prompts) -> None:
        self.config, self.team, self.prompts = config, team, prompts
        self._checks_left = CHECKED_SYNCS

    def after_sync(self) -> None:
        """Compare answers after the first few syncs; raises RunError where they differ."""
        if self._checks_left:
            self._checks_left -= 1
            some = range(min(CHECKED_PROMPTS, len(self.prompts.dataset)))
            usable = [index for index in some if self.prompts.get(index) is not None]
            check_engine(self.team, [self.prompts.rendered(index).token_ids for index in usable], self.config)

    def refuse_stale(self, step: int, difference: float) -> None:
        """Stop the run where a step's log-probs are too far from the trainer's; raises RunError."""
        limit = self.config.engine.vllm_max_logp_difference
        if difference > limit:
            raise RunError(
                f"in step {step} the engine's log-probs differ from the trainer's by {difference:.3f} on average, more "
                f"than engine.vllm_max_logp_difference={limit}; it may not have loaded the latest weights, "
                "continue with --resume or try --engine hf"
            )


def check_engine(team: Team, prompts: Sequence[list[int]], config: RunConfig) -> None:
    """Compare continuations of a few prompts.

    Greedy ones; of a sharded policy, which no process holds whole, the log-probs of sampled ones.

    Raises:
        RunError: they differ where the trainer is sure.
    """
    if team.processes.sharded:
        _compare_logprobs(team, prompts, config.engine.vllm_max_logp_difference)
    else:
        _compare_greedy(team, prompts, TIE[config.compute_dtype])


def _compare_greedy(team: Team, prompts: Sequence[list[int]], tie: float) -> None:
    requests = [Request(prompt, [0], 0.0, TOKENS) for prompt in prompts]
    for prompt, theirs, ours in zip(prompts, team.generate(requests), team.greedy(requests), strict=True):
        mine, other = ours[0].token_ids, theirs[0].token_ids
        at = next((i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), None)
        if at is None:
            continue
        rows = [prompt + mine[:at] + [token] for token in (mine[at], other[at])]
        spans = [(len(row) - 1, len(row)) for row in rows]
        best, taken = (float(logprobs[0]) for logprobs, _ in team.score(rows, spans, [1.0, 1.0], charged=False))
        if best - taken > tie:
            raise RunError(
                f"{FAULT}: greedy token {at + 1} of a prompt is {other[at]} where the trainer's is {mine[at]} "
                f"({best - taken:.2f} nats more likely); {CURE}"
            )


def _compare_logprobs(team: Team, prompts: Sequence[list[int]], limit: float) -> None:
    groups = team.generate([Request(prompt, [0, 1], 1.0, TOKENS) for prompt in prompts])
    pairs = [(prompt, rollout) for prompt, group in zip(prompts, groups, strict=True) for rollout in group]
    rows = [prompt + rollout.token_ids for prompt, rollout in pairs]
    spans = [(len(prompt), len(row)) for (prompt, _), row in zip(pairs, rows, strict=True)]
    scores = team.score(rows, spans, [1.0] * len(rows), charged=False)
    ours = np.concatenate([logprobs for logprobs, _ in scores])
    theirs = np.concatenate([rollout.logprobs for _, rollout in pairs])
    gap = float(np.abs(ours - theirs).mean())
    if gap > limit:
        raise RunError(f"{FAULT}: their log-probs differ by {gap:.2f} nats on average; {CURE}")
