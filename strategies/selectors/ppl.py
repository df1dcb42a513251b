"""Selection by prompt perplexity: PREPO's schedule and its two ablations (2511.00794, section 3.1).

Candidates are sorted by the perplexity of their prompt under the current policy, ascending, ties in dataset order.
`ppl-schedule` keeps a window of K candidates that slides from the lowest to the highest perplexities during training.

Choices where the paper is silent: `scope` (which tokens are scored), `source` (perplexities computed at each step, or
stored in the `ppl` column), and `pacing` (how the window moves).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import numpy as np
from pydantic import Field

from strategies.base import Selector
from strategies.registry import register
from strategies.selectors.perplexity import PerplexityParams
from strategies.types import FloatArray, IntArray, Prompt, PromptSource, RunInfo, StepContext


def window_start(candidates: int, kept: int, rho: float) -> int:
    """First kept rank, l = floor(rho * (B - K)), for rho in [0, 1].

    >>> [window_start(1280, 256, rho) for rho in (0.0, 0.3, 1.0)]
    [0, 307, 1024]
    """
    return math.floor(rho * (candidates - kept) + 1e-9)


def window(ppl_B: FloatArray, index_B: IntArray, start: int, kept: int) -> IntArray:
    """Positions of the candidates at ranks start .. start + kept - 1 by perplexity, ties by prompt index.

    >>> import numpy as np
    >>> ppl_B = np.array([9.0, 2.0, 5.0, 3.0, 7.0])
    >>> starts = [window_start(5, 2, rho) for rho in (0.0, 0.5, 1.0)]
    >>> [ppl_B[window(ppl_B, np.arange(5), start, 2)].tolist() for start in starts]
    [[2.0, 3.0], [3.0, 5.0], [7.0, 9.0]]
    """
    ranked: IntArray = np.lexsort((index_B, ppl_B))
    return ranked[start : start + kept]


PACING = {"linear": lambda rho: rho, "quadratic": lambda rho: rho * rho, "sqrt": math.sqrt}


class _ByPerplexity(Selector):
    """Sorts candidates by perplexity; subclasses say where the kept window starts."""

    paper = "2511.00794"
    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "window_start": (
            "rank",
            "rank of the first kept candidate in the step's first round; 0 is the lowest perplexity",
        ),
        "ppl_candidates_mean": ("perplexity", "mean of the candidates"),
        "ppl_candidates_min": ("perplexity", "lowest of the candidates"),
        "ppl_candidates_max": ("perplexity", "highest of the candidates"),
        "ppl_kept_mean": ("perplexity", "mean of the kept prompts"),
        "ppl_kept_min": ("perplexity", "lowest of the kept prompts"),
        "ppl_kept_max": ("perplexity", "highest of the kept prompts"),
    }

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self._step = -1
        self._scored: list[FloatArray] = []  # this step's, one array per round
        self._kept: list[FloatArray] = []
        self._starts: list[int] = []

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        params.check_column(cls.name, run)

    @abstractmethod
    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        """First kept rank."""

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        prompts = source.take(self.params.candidates(n, self.run))
        ppl_B = self.params.perplexities(self.name, prompts, ctx)
        start = self.start(len(prompts), n, ctx)
        chosen = window(ppl_B, np.array([prompt.index for prompt in prompts]), start, n)
        if ctx.step != self._step:
            self._step, self._scored, self._kept, self._starts = ctx.step, [], [], []
        self._scored.append(ppl_B)
        self._kept.append(ppl_B[chosen])
        self._starts.append(start)
        return [prompts[i] for i in chosen]

    def metrics(self) -> dict[str, float]:
        if not self._scored:
            return {}
        return {"window_start": float(self._starts[0])} | {
            f"ppl_{of}_{name}": float(f(np.concatenate(rounds)))
            for of, rounds in (("candidates", self._scored), ("kept", self._kept))
            for name, f in (("mean", np.mean), ("min", np.min), ("max", np.max))
        }


@register("ppl-schedule")
class PplSchedule(_ByPerplexity):
    """Keeps a window of the candidates sorted by prompt perplexity that slides from low to high during training."""

    reads_progress = True

    class Params(PerplexityParams):
        """Pacing of the schedule."""

        pacing: Literal["linear", "quadratic", "sqrt"] = Field(
            "linear", description="how the window moves with training progress"
        )

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return window_start(candidates, kept, PACING[self.params.pacing](ctx.progress))


@register("ppl-low")
class PplLow(_ByPerplexity):
    """Keeps the candidates of lowest prompt perplexity."""

    Params = PerplexityParams

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return 0


@register("ppl-high")
class PplHigh(_ByPerplexity):
    """Keeps the candidates of highest prompt perplexity."""

    Params = PerplexityParams

    def start(self, candidates: int, kept: int, ctx: StepContext) -> int:
        return candidates - kept
