"""Check that a separate engine has the trainer's weights: compare greedy completions of both, token by token.

An engine that loaded only part of the weights generates wrong tokens without any error. If the trainer gives two tokens
about the same probability, rounding may decide between them, so the comparison ends there. The rollouts and tokens of
these checks are not charged to the run (see costs.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prepo_cli.data.prompts import Prompts
from prepo_cli.engines.base import Request
from prepo_cli.errors import RunError
from prepo_cli.sections import RunConfig
from prepo_cli.training.team import Team

CHECKED_SYNCS = 3
"""Number of weight syncs that are checked: the initial one, and those after the first two updates."""
CHECKED_PROMPTS = 4
TOKENS = 16
FAULT = "the engine's weights differ from the trainer's"
CURE = "the weight sync failed; try --engine hf"
TIE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.25}
"""Log-probs (nats) this close may swap order through another engine's rounding."""


class EngineMonitor:
    """Checks an engine that has its own copy of the weights."""

    def __init__(self, config: RunConfig, team: Team, prompts: Prompts) -> None:
        self.config, self.team, self.prompts = config, team, prompts
        self._checks_left = CHECKED_SYNCS

    def after_sync(self) -> None:
        """Compare completions after the first few syncs; raises RunError if they differ."""
        if self._checks_left:
            self._checks_left -= 1
            first = range(min(CHECKED_PROMPTS, len(self.prompts.dataset)))
            usable = [index for index in first if self.prompts.get(index) is not None]
            check_engine(self.team, [self.prompts.rendered(index).token_ids for index in usable], self.config)

    def refuse_stale(self, step: int, difference: float) -> None:
        """Raise RunError if a step's log-probs are too far from the trainer's."""
        limit = self.config.engine.vllm_max_logp_difference
        if difference > limit:
            raise RunError(
                f"in step {step} the engine's log-probs differ from the trainer's by "
                f"{difference:.3f} on average, more than engine.vllm_max_logp_difference={limit}; "
                "it may have stale weights: continue with --resume or try --engine hf"
            )


def check_engine(team: Team, prompts: Sequence[list[int]], config: RunConfig) -> None:
    """Compare completions of a few prompts.

    They are greedy; for a sharded policy, which no process holds in full, log-probs of sampled ones are compared.

    Raises:
        RunError: they differ by more than rounding explains.
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
                f"{FAULT}: greedy token {at + 1} of a prompt is {other[at]}, but the trainer's is {mine[at]} "
                f"({best - taken:.2f} nats more likely); {CURE}"
            )


def _compare_logprobs(team: Team, prompts: Sequence[list[int]], limit: float) -> None:
    groups = team.generate([Request(prompt, [0, 1], 1.0, TOKENS) for prompt in prompts])
    pairs = [(prompt, rollout) for prompt, group in zip(prompts, groups, strict=True) for rollout in group]
    rows = [prompt + rollout.token_ids for prompt, rollout in pairs]
    spans = [(len(prompt), len(row)) for (prompt, _), row in zip(pairs, rows, strict=True)]
    scores = team.score(rows, spans, [1.0] * len(rows), charged=False)
    ours_M = np.concatenate([logprobs for logprobs, _ in scores])
    theirs_M = np.concatenate([rollout.logprobs for _, rollout in pairs])
    gap = float(np.abs(ours_M - theirs_M).mean())
    if gap > limit:
        raise RunError(f"{FAULT}: their log-probs differ by {gap:.2f} nats on average; {CURE}")
