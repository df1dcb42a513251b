"""sGPO (2606.08854): pass rates measured once before the run set filter, group sizes and curriculum.

Prompts that the initial policy always solves are dropped, and only a sample of those that it never solves is kept. The
rest are trained on from easy to hard: a window over the candidates, sorted by descending pass rate, slides from the
first to the last during training. Budget `inverse-pass-rate` gives each prompt about 1 / p rollouts.

Differences from the paper, of which only the abstract was available: it sorts the whole training set once; here each
step sorts its own candidates from the stream, so memory does not grow with the training set. Thresholds, the share of
unsolvable prompts and how they are drawn are our choices. The number of rollouts per step stays fixed, so group sizes
are proportional to 1 / p, not equal to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector
from strategies.pass_rates import check_column, pass_rates
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.selectors.ppl import window_start
from strategies.types import BoolArray, FloatArray, Prompt, PromptSource, RunInfo, StepContext, derive_seed

MOST_TAKEN = 10
"""Maximum prompts drawn per candidate, so that the search ends even if all prompts are dead."""


@register("sgpo")
class Sgpo(Selector):
    """Drops trivial prompts and most unsolvable ones by stored pass rate, and orders the rest from easy to hard."""

    paper = "2606.08854"
    reads_progress = True
    companions = {"budget": "inverse-pass-rate"}  # noqa: RUF012  (declared ClassVar in the base)
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "passed_share": ("share", "share of the prompts drawn in the step that pass the filter on stored pass rates"),
        "pass_rate_candidates_mean": ("share", "mean stored pass rate of the candidates"),
        "pass_rate_kept_mean": ("share", "mean stored pass rate of the kept prompts"),
        "pass_rate_kept_min": ("share", "lowest stored pass rate of the kept prompts"),
        "pass_rate_kept_max": ("share", "highest stored pass rate of the kept prompts"),
    }
    reads_pass_rates = True

    class Params(CandidateParams):
        """The filter."""

        trivial: float = Field(
            1.0, gt=0, le=1, description="prompts with at least this pass rate are dropped as trivial"
        )
        unsolvable_share: float = Field(
            0.1, ge=0, le=1, description="share of the prompts with pass rate 0 to train on"
        )

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        check_column(f"selector '{cls.name}'", run)

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self._step = -1
        self._taken = 0
        self._passed: list[FloatArray] = []  # this step's pass rates, one array per round
        self._kept: list[FloatArray] = []

    def passes(self, prompts: Sequence[Prompt]) -> BoolArray:
        """Whether each prompt is trained on, [n]; the same in every step of a run."""
        p_n = pass_rates(f"selector '{self.name}'", prompts)
        passes_n: BoolArray = p_n < self.params.trivial
        for i in np.flatnonzero(p_n == 0).tolist():
            draw = derive_seed(self.run.seed, "sgpo", prompts[i].index) / 2**63
            passes_n[i] = draw < self.params.unsolvable_share
        return passes_n

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        passed, dropped, taken = self._draw(n, source)
        # Dropped prompts fill what is missing, unsolvable ones first: those may come alive, trivial ones won't.
        passed += sorted(dropped, key=lambda prompt: prompt.pass_rate or 0.0)[: max(0, n - len(passed))]
        p_B = pass_rates(f"selector '{self.name}'", passed)
        start = window_start(len(passed), n, ctx.progress)
        chosen = np.argsort(-p_B, kind="stable")[start : start + n]
        if ctx.step != self._step:
            self._step, self._taken, self._passed, self._kept = ctx.step, 0, [], []
        self._taken += taken
        self._passed.append(p_B)
        self._kept.append(p_B[chosen])
        return [passed[i] for i in chosen]

    def _draw(self, n: int, source: PromptSource) -> tuple[list[Prompt], list[Prompt], int]:
        """Candidates that pass the filter, those it drops, and how many were taken: at most one pass, or 10 B."""
        wanted = self.params.candidates(n, self.run)
        most = max(n, min(MOST_TAKEN * wanted, self.run.num_prompts))
        passed: list[Prompt] = []
        dropped: list[Prompt] = []
        while len(passed) < wanted and (taken := len(passed) + len(dropped)) < most:
            prompts = source.take(min(wanted - len(passed), most - taken))
            for prompt, passes in zip(prompts, self.passes(prompts), strict=True):
                (passed if passes else dropped).append(prompt)
        return passed, dropped, len(passed) + len(dropped)

    def metrics(self) -> dict[str, float]:
        if not self._passed:
            return {}
        passed_B, kept_n = np.concatenate(self._passed), np.concatenate(self._kept)
        return {
            "passed_share": len(passed_B) / self._taken,
            "pass_rate_candidates_mean": float(passed_B.mean()),
            "pass_rate_kept_mean": float(kept_n.mean()),
            "pass_rate_kept_min": float(kept_n.min()),
            "pass_rate_kept_max": float(kept_n.max()),
        }
