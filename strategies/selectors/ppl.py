"""Selection by prompt perplexity: PREPO's schedule and its two ablations (2511.00794, section 3.1).

Candidates are sorted by the perplexity of their prompt under the current policy, ascending, ties in dataset order.
`ppl-schedule` keeps a window of K that slides from the most to the least familiar candidates as training goes on.

Choices where the paper is silent: `scope` (which tokens are scored), `source` (scored anew each step, or the stored
`ppl` column), `pacing` of the window.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.errors import StrategyError
from strategies.registry import register
from strategies.selectors.candidates import CandidateParams
from strategies.types import FloatArray, IntArray, Prompt, PromptSource, RunInfo, StepContext


def window_start(candidates: int, kept: int, rho: float) -> int:
    """First kept rank, l = floor(rho * (B - K)), for rho in [0, 1]."""
    return math.floor(rho * (candidates - kept) + 1e-9)


PACING = {"linear": lambda rho: rho, "quadratic": lambda rho: rho * rho, "sqrt": math.sqrt}


class PplParams(CandidateParams):
    """Parameters of all perplexity selectors."""

    scope: Literal["question", "prompt"] = Field("question", description="score the question's tokens or all")
    source: Literal["live", "stored"] = Field("live", description="the current policy, or the `ppl` column")


class _ByPerplexity(Selector):
    """Sorts candidates by perplexity; subclasses say where the kept window starts."""

    paper = "2511.00794"

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self._last: dict[str, float] = {}

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        if params.source == "stored" and "ppl" not in run.columns:
            raise StrategyError(
                f"selector '{cls.name}': source=stored needs a column 'ppl'; write it with: prepo score-ppl DATASET"
            )

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        """First kept rank."""
        raise NotImplementedError  # abstract: every registered subclass has it

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        prompts = source.take(self.params.candidates(n))
        ppl_B = self._perplexity(prompts, ctx)
        start = self.start(len(prompts), n, ctx)
        ranks: IntArray = np.lexsort((np.array([p.index for p in prompts]), ppl_B))[start : start + n]
        kept = ppl_B[ranks]
        self._last = {"window_start": float(start)} | {
            f"ppl_{of}_{name}": float(f(values))
            for of, values in (("candidates", ppl_B), ("kept", kept))
            for name, f in (("mean", np.mean), ("min", np.min), ("max", np.max))
        }
        return [prompts[i] for i in ranks]

    def _perplexity(self, prompts: list[Prompt], ctx: StepContext) -> FloatArray:
        if self.params.source == "live":
            return ctx.probe.perplexity(prompts, self.params.scope)
        missing = [p.id for p in prompts if p.ppl is None]
        if missing:
            raise StrategyError(f"selector '{self.name}': prompt '{missing[0]}' has no stored 'ppl'")
        return np.array([p.ppl for p in prompts], dtype=np.float64)

    def metrics(self) -> dict[str, float]:
        return self._last

    def state_dict(self) -> State:
        return {}


@register("ppl-schedule")
class PplSchedule(_ByPerplexity):
    """A window over the candidates sorted by prompt perplexity, sliding from low to high during training."""

    class Params(PplParams):
        """The schedule's own."""

        pacing: Literal["linear", "quadratic", "sqrt"] = Field("linear", description="how the window moves")

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return window_start(candidates, kept, PACING[self.params.pacing](ctx.progress))


@register("ppl-low")
class PplLow(_ByPerplexity):
    """The candidates of lowest prompt perplexity, all through training."""

    Params = PplParams

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return 0


@register("ppl-high")
class PplHigh(_ByPerplexity):
    """The candidates of highest prompt perplexity, all through training."""

    Params = PplParams

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return candidates - kept
