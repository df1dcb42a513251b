"""Our own selector: rolls out the prompts whose rewards are most likely to differ.

A prompt's pass rate p has a Beta distribution that combines two sources: the rate predicted from its perplexity, length
and source (see strategies/pass_rate_model.py), and its own rollouts so far, whose weight is multiplied by `decay` at
each later visit. The selector keeps the candidates with the highest E[1 - p^G - (1 - p)^G], the probability that the
rewards of G rollouts differ; if they don't, there is nothing to learn. This score is flatter around one half than p (1
- p). It is divided by 1 + the number of recent visits, because each further visit teaches less; otherwise a few prompts
of medium pass rate would be rolled out all the time.

The regression weights are drawn from their posterior (Thompson sampling), so that features of uncertain effect get
explored. A prompt's own pass rate is averaged over instead: with many candidates, a draw for each would mostly pick
prompts about which nothing is known. When most prompts are dead, few candidates are worth a rollout, so the pool is
twice as large as in other selectors. Perplexities change slowly and are reused for `rescore` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.errors import StrategyError
from strategies.history import restored
from strategies.pass_rate_model import PassRateModel, expected_varied
from strategies.registry import register
from strategies.selectors.perplexity import PerplexityParams
from strategies.types import FloatArray, Group, IntArray, Prompt, PromptSource, RunInfo, StepContext, StepReport


@register("calibrated")
class Calibrated(Selector):
    """Keeps the candidates whose rewards are most likely to differ, predicted from perplexity and earlier rollouts."""

    metric_help = {  # noqa: RUF012  (declared ClassVar in the base)
        "expected_varied": (
            "probability",
            "predicted probability that the rewards of a kept prompt's group differ, mean",
        ),
        "strength": (
            "rollouts",
            "pseudo-rollouts that the predicted pass rate counts as, besides a prompt's own rollouts",
        ),
        "weight_0": ("log-odds", "intercept of the regression"),
        "weight_1": ("log-odds", "slope for the standardized log perplexity"),
        "weight_2": ("log-odds", "slope for its square"),
        "weight_3": ("log-odds", "slope for the standardized log length of the prompt; 0 with length=false"),
    }

    class Params(PerplexityParams):
        """How much evidence counts, and for how long."""

        ratio: float = Field(0.1, ge=1e-4, le=1, description="kept prompts / candidate prompts (K / B)")
        decay: float = Field(
            0.7, ge=0, le=1, description="weight that a prompt's earlier rollouts keep after each visit"
        )
        forget: float = Field(0.98, gt=0, le=1, description="share of the regression's precision kept after each step")
        half_life: float = Field(64, gt=0, le=1e6, description="half-life, in steps, of the count of recent visits")
        rescore: int = Field(
            64, ge=1, le=10**9, description="steps after which a candidate's perplexity is scored again"
        )
        pooled: bool = Field(True, description="give each source its own intercept and slope")
        length: bool = Field(True, description="also predict from the prompt's length")
        strength: float | None = Field(
            None, gt=0, le=1e6, description="pseudo-rollouts that the predicted rate counts as; learned by default"
        )

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        params.check_column(cls.name, run)

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.model = PassRateModel(params.forget, params.pooled, params.length, params.strength)
        self.right_P = np.zeros(run.num_prompts, dtype=np.float32)
        self.wrong_P = np.zeros(run.num_prompts, dtype=np.float32)
        self.log_ppl_P = np.full(run.num_prompts, np.nan, dtype=np.float32)
        self.scored_P = np.zeros(run.num_prompts, dtype=np.int32)
        self.visits_P = np.zeros(run.num_prompts, dtype=np.float32)  # as of the last one
        self.visited_P = np.zeros(run.num_prompts, dtype=np.int32)  # the step of the last visit
        self._outcomes: list[tuple[Prompt, int, int, bool]] = []  # this step's: prompt, correct, rollouts, first visit
        self._expected = 0.0

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        log_ppl_B = self._log_perplexity(candidates, ctx)
        self.model.count(candidates, log_ppl_B)
        differ_B = self.differ(candidates, log_ppl_B, ctx.rng("selector/calibrated"))
        chosen = np.argsort(-self.worth(candidates, differ_B, ctx.step), kind="stable")[:n]
        self._expected = float(differ_B[chosen].mean())
        return [candidates[i] for i in chosen]

    def differ(self, prompts: Sequence[Prompt], log_ppl_B: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Probability [B] that the rewards of a group differ."""
        mean_B = self.model.drawn_mean(self.model.features(prompts, log_ppl_B), rng)
        index_B, strength = rows(prompts), self.model.strength
        a_B = strength * mean_B + self.right_P[index_B]
        b_B = strength * (1 - mean_B) + self.wrong_P[index_B]
        return expected_varied(a_B, b_B, self.run.num_generations)

    def worth(self, prompts: Sequence[Prompt], differ_B: FloatArray, step: int) -> FloatArray:
        """What a visit is worth [B]: the probability that the rewards differ, less after recent visits."""
        return np.asarray(differ_B / (1 + self.recent_visits(prompts, step)), dtype=np.float64)

    def recent_visits(self, prompts: Sequence[Prompt], step: int) -> FloatArray:
        """Number of visits [B], of which older ones count less."""
        index_B = rows(prompts)
        faded_B = 0.5 ** ((step - self.visited_P[index_B]) / self.params.half_life)
        return np.asarray(self.visits_P[index_B] * faded_B, dtype=np.float64)

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        prompts = [group.prompt for group in groups]
        index_B = rows(prompts)
        self.visits_P[index_B] = self.recent_visits(prompts, ctx.step) + 1
        self.visited_P[index_B] = ctx.step
        for group in groups:
            index, right, total = group.prompt.index, group.num_correct, len(group.completions)
            first = bool(self.right_P[index] + self.wrong_P[index] == 0)
            self.right_P[index] = self.params.decay * self.right_P[index] + right
            self.wrong_P[index] = self.params.decay * self.wrong_P[index] + total - right
            if np.isfinite(self.log_ppl_P[index]):
                self._outcomes.append((group.prompt, right, total, first))

    def end_step(self, report: StepReport) -> None:
        if self._outcomes:
            prompts, right_B, total_B, first_B = zip(*self._outcomes, strict=True)
            log_ppl_B = self.log_ppl_P[[prompt.index for prompt in prompts]].astype(np.float64)
            self.model.learn(
                self.model.features(prompts, log_ppl_B),
                np.array(right_B, dtype=np.float64),
                np.array(total_B, dtype=np.float64),
                np.array(first_B),
            )
        self._outcomes.clear()

    def _log_perplexity(self, candidates: Sequence[Prompt], ctx: StepContext) -> FloatArray:
        """Log perplexity [B]; scored now where that was never done or too long ago."""
        index_B = rows(candidates)
        known_B = np.isfinite(self.log_ppl_P[index_B]) & (ctx.step - self.scored_P[index_B] < self.params.rescore)
        stale = [prompt for prompt, known in zip(candidates, known_B, strict=True) if not known]
        if stale:
            ppl_B = self.params.perplexities(self.name, stale, ctx)
            wrong = np.flatnonzero(~np.isfinite(ppl_B) | (ppl_B <= 0))
            if len(wrong):  # it would spoil the running moments for the rest of the run
                first = wrong[0]
                raise StrategyError(
                    f"selector 'calibrated': prompt '{stale[first].id}' has perplexity {ppl_B[first]}; "
                    "it must be finite and > 0"
                )
            self.log_ppl_P[index_B[~known_B]] = np.log(ppl_B)
            self.scored_P[index_B[~known_B]] = ctx.step
        return np.asarray(self.log_ppl_P[index_B], dtype=np.float64)

    def metrics(self) -> dict[str, float]:
        weights = {f"weight_{i}": float(value) for i, value in enumerate(self.model.mean_F[:4])}
        return {"expected_varied": self._expected, "strength": self.model.strength, **weights}

    def state_dict(self) -> State:
        return {
            "right": self.right_P.copy(),
            "wrong": self.wrong_P.copy(),
            "log_ppl": self.log_ppl_P.copy(),
            "scored": self.scored_P.copy(),
            "visits": self.visits_P.copy(),
            "visited": self.visited_P.copy(),
            "model": self.model.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.right_P, self.wrong_P = restored(state["right"], self.right_P), restored(state["wrong"], self.wrong_P)
        self.log_ppl_P = restored(state["log_ppl"], self.log_ppl_P)
        self.scored_P = restored(state["scored"], self.scored_P)
        self.visits_P = restored(state["visits"], self.visits_P)
        self.visited_P = restored(state["visited"], self.visited_P)
        self.model.load_state_dict(state["model"])


def rows(prompts: Sequence[Prompt]) -> IntArray:
    """Row numbers [B] of prompts."""
    return np.array([prompt.index for prompt in prompts], dtype=np.int64)
