"""Our own selector: perplexity calibrated online into a predicted pass rate.

Two things predict how often a prompt will be solved. One is a logistic regression of the pass rate on the standardised
log perplexity z, with features [1, z, z^2], shared by all prompts; its weights have a Gaussian posterior that each step
updates by Newton's method (Laplace approximation), and that is widened a little each step to follow the changing
policy. The other is the prompt's own rollouts so far, with older visits counting less.

For the candidates, weights are sampled from the posterior (Thompson sampling). The predicted pass rate counts as
`strength` pseudo-rollouts besides the prompt's own, and a rate p is sampled from the resulting Beta distribution. The
candidates with the highest 1 - p^G - (1 - p)^G are kept: the probability that the rewards of G rollouts differ, without
which there is nothing to learn. It is flatter around one half than p (1 - p).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import Selector, State
from strategies.errors import StrategyError
from strategies.history import restored
from strategies.registry import register
from strategies.selectors.perplexity import PerplexityParams
from strategies.types import FloatArray, Group, IntArray, Prompt, PromptSource, RunInfo, StepContext, StepReport

FEATURES = 3


def varied(p: FloatArray, rollouts: int) -> FloatArray:
    """Probability that the rewards of `rollouts` rollouts of pass rate p are not all equal.

    >>> varied(np.array([0.0, 0.1, 0.5]), rollouts=8).round(6).tolist()
    [0.0, 0.569533, 0.992188]
    """
    return np.asarray(1.0 - p**rollouts - (1.0 - p) ** rollouts)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def laplace_update(
    mean_F: FloatArray, precision_FF: FloatArray, x_NF: FloatArray, right_N: FloatArray, total_N: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean [F] and precision [F, F] of logistic weights after binomial outcomes; damped Newton steps."""
    weights_F = mean_F.copy()
    for _ in range(8):
        p_N = sigmoid(x_NF @ weights_F)
        gradient_F = x_NF.T @ (right_N - total_N * p_N) - precision_FF @ (weights_F - mean_F)
        hessian_FF = (x_NF * (total_N * p_N * (1 - p_N))[:, None]).T @ x_NF + precision_FF
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        weights_F = weights_F + step_F * min(1.0, 2.0 / max(float(np.abs(step_F).max()), 1e-12))
        if float(np.abs(step_F).max()) < 1e-8:
            break
    p_N = sigmoid(x_NF @ weights_F)
    return weights_F, (x_NF * (total_N * p_N * (1 - p_N))[:, None]).T @ x_NF + precision_FF


@register("calibrated")
class Calibrated(Selector):
    """Keeps the candidates most likely to give differing rewards, predicted from perplexity and earlier rollouts."""

    class Params(PerplexityParams):
        """How much evidence counts, and for how long."""

        strength: float = Field(4.0, gt=0, description="number of pseudo-rollouts that the predicted rate counts as")
        decay: float = Field(
            0.7, ge=0, le=1, description="share of a prompt's older rollouts that still counts after a visit"
        )
        forget: float = Field(
            0.9, gt=0, le=1, description="share of the regression's precision that remains after a step"
        )

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        params.check_column(cls.name, run)

    def __init__(self, params: Any, run: RunInfo) -> None:
        super().__init__(params, run)
        self.right_P = np.zeros(run.num_prompts, dtype=np.float32)
        self.wrong_P = np.zeros(run.num_prompts, dtype=np.float32)
        self.mean_F: FloatArray = np.zeros(FEATURES)
        self.precision_FF: FloatArray = np.eye(FEATURES)
        self.moments = np.zeros(3)  # count, mean and squared deviations of log perplexity
        self._log_ppl: dict[int, float] = {}  # this step's candidates, by index
        self._outcomes: list[tuple[float, int, int]] = []  # this step's: log perplexity, correct rollouts, rollouts

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        candidates = source.take(self.params.candidates(n, self.run))
        log_ppl_B = self._log_perplexity(candidates, ctx)
        self._count_moments(log_ppl_B)
        index_B = np.array([prompt.index for prompt in candidates])
        self._log_ppl |= dict(zip(index_B.tolist(), log_ppl_B.tolist(), strict=True))
        score_B = varied(self.draw(log_ppl_B, index_B, ctx.rng("selector/calibrated")), self.run.num_generations)
        chosen = np.argsort(-score_B, kind="stable")[:n]
        return [candidates[i] for i in chosen]

    def draw(self, log_ppl_B: FloatArray, index_B: IntArray, rng: np.random.Generator) -> FloatArray:
        """A pass rate for each candidate, sampled from its posterior."""
        weights_F = rng.multivariate_normal(self.mean_F, np.linalg.inv(self.precision_FF))
        predicted_B = np.clip(sigmoid(self._features(log_ppl_B) @ weights_F), 0.01, 0.99)
        a_B = self.params.strength * predicted_B + self.right_P[index_B]
        b_B = self.params.strength * (1 - predicted_B) + self.wrong_P[index_B]
        return np.asarray(rng.beta(a_B, b_B))

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        for group in groups:
            index, right, total = group.prompt.index, group.num_correct, len(group.completions)
            self.right_P[index] = self.params.decay * self.right_P[index] + right
            self.wrong_P[index] = self.params.decay * self.wrong_P[index] + total - right
            if index in self._log_ppl:
                self._outcomes.append((self._log_ppl[index], right, total))

    def end_step(self, report: StepReport) -> None:
        if self._outcomes:
            log_ppl_N, right_N, total_N = np.array(self._outcomes, dtype=np.float64).T
            kept = self.params.forget
            prior_FF = kept * self.precision_FF + (1 - kept) * np.eye(FEATURES)
            self.mean_F, self.precision_FF = laplace_update(
                self.mean_F, prior_FF, self._features(log_ppl_N), right_N, total_N
            )
        self._outcomes.clear()
        self._log_ppl.clear()

    def _log_perplexity(self, candidates: Sequence[Prompt], ctx: StepContext) -> FloatArray:
        ppl_B = self.params.perplexities(self.name, candidates, ctx)
        wrong = np.flatnonzero(~np.isfinite(ppl_B) | (ppl_B <= 0))
        if len(wrong):  # it would spoil the running moments for the rest of the run
            first = wrong[0]
            raise StrategyError(
                f"selector 'calibrated': prompt '{candidates[first].id}' has perplexity {ppl_B[first]}; "
                "it must be finite and > 0"
            )
        return np.asarray(np.log(ppl_B))

    def _count_moments(self, values_B: FloatArray) -> None:
        """Chan's update of running mean and variance."""
        count, mean, squares = self.moments
        added, added_mean = len(values_B), float(values_B.mean())
        total = count + added
        gap = added_mean - mean
        squares += float(((values_B - added_mean) ** 2).sum()) + gap * gap * count * added / total
        self.moments = np.array([total, mean + gap * added / total, squares])

    def _features(self, log_ppl: FloatArray) -> FloatArray:
        count, mean, squares = self.moments
        spread = float(np.sqrt(squares / count)) if count else 0.0
        z = np.clip((log_ppl - mean) / (spread or 1.0), -4, 4)
        return np.stack([np.ones_like(z), z, z * z], axis=1)

    def metrics(self) -> dict[str, float]:
        return {f"weight_{i}": float(value) for i, value in enumerate(self.mean_F)}

    def state_dict(self) -> State:
        return {
            "right": self.right_P.copy(),
            "wrong": self.wrong_P.copy(),
            "mean": self.mean_F.copy(),
            "precision": self.precision_FF.copy(),
            "moments": self.moments.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        self.right_P, self.wrong_P = restored(state["right"], self.right_P), restored(state["wrong"], self.wrong_P)
        self.mean_F, self.precision_FF = state["mean"].copy(), state["precision"].copy()
        self.moments = state["moments"].copy()
