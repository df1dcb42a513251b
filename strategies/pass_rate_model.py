"""A prompt's pass rate, predicted from its perplexity, its length and its source, with an honest uncertainty.

The mean is a logistic regression with partial pooling: all prompts share an intercept and the weights of the
standardized log perplexity, its square and the log length; each source has its own intercept and slope, which a tighter
prior pulls towards 0. The weights have a Gaussian posterior that each step updates by Newton's method (Laplace
approximation) and that is widened a little to follow the changing policy.

Prompts with equal features still differ: a wrong gold answer is never met, however easy the question. So a pass rate
has the prior Beta(s m, s (1 - m)) around its predicted mean m, and the strength s is learned too, from how first visits
turn out (the marginal likelihood of beta-binomial counts over a grid). With s below 1 the prior is U-shaped: most
prompts are taken to be always or never solved, and a first visit says which. Rollouts of a prompt are that much less
than independent evidence on the mean, so that counts of n are weighted by (s + 1) / (s + n) in the regression.

Axis letters: B prompts, F features, S strengths of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from strategies.base import State
from strategies.types import BoolArray, FloatArray, Prompt, derive_seed

COMMON = 4
"""Shared features: 1, z, z^2 and the log length."""
SOURCES = 64
"""Sources with effects of their own; more of them share these."""
PRIOR = {"common": 1.0, "intercept": 1.0, "slope": 4.0}
"""Prior precisions of the weights: shared ones, intercepts of sources, slopes of sources."""
STRENGTHS_S = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
MEMORY = 0.99
"""Share of the evidence on the strength that remains after a step that adds some."""

_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def varied(p: FloatArray, rollouts: int) -> FloatArray:
    """Probability that the rewards of `rollouts` rollouts of pass rate p are not all equal.

    >>> varied(np.array([0.0, 0.1, 0.5]), rollouts=8).round(6).tolist()
    [0.0, 0.569533, 0.992188]
    """
    return np.asarray(1.0 - p**rollouts - (1.0 - p) ** rollouts)


def expected_varied(a_B: FloatArray, b_B: FloatArray, rollouts: int) -> FloatArray:
    """Mean of `varied` over pass rates from Beta(a, b): 1 - E[p^n] - E[(1-p)^n], in closed form.

    >>> expected_varied(np.array([1.0, 0.1]), np.array([1.0, 0.1]), rollouts=2).round(6).tolist()
    [0.333333, 0.083333]
    """
    i_N1 = np.arange(rollouts)[:, None]
    right_B = np.prod((a_B + i_N1) / (a_B + b_B + i_N1), axis=0)
    wrong_B = np.prod((b_B + i_N1) / (a_B + b_B + i_N1), axis=0)
    return np.asarray(1.0 - right_B - wrong_B)


def log_likelihood(mean_B: FloatArray, right_B: FloatArray, total_B: FloatArray) -> FloatArray:
    """Log-likelihood [S] of beta-binomial counts around their means, for each strength of the grid.

    >>> both = log_likelihood(np.array([0.5, 0.5]), np.array([0.0, 8.0]), np.array([8.0, 8.0]))
    >>> float(STRENGTHS_S[both.argmax()])  # all or nothing: hardly any prompt is in between
    0.25
    """
    a_SB, b_SB = STRENGTHS_S[:, None] * mean_B, STRENGTHS_S[:, None] * (1 - mean_B)
    after_SB = _log_gamma(a_SB + right_B) + _log_gamma(b_SB + total_B - right_B) - _log_gamma(a_SB + b_SB + total_B)
    before_SB = _log_gamma(a_SB) + _log_gamma(b_SB) - _log_gamma(a_SB + b_SB)
    return np.asarray((after_SB - before_SB).sum(axis=1))


def laplace_update(
    mean_F: FloatArray, precision_FF: FloatArray, x_BF: FloatArray, right_B: FloatArray, total_B: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean [F] and precision [F, F] of logistic weights after binomial outcomes; damped Newton steps."""
    weights_F = mean_F.copy()
    for _ in range(8):
        p_B = sigmoid(x_BF @ weights_F)
        gradient_F = x_BF.T @ (right_B - total_B * p_B) - precision_FF @ (weights_F - mean_F)
        hessian_FF = (x_BF * (total_B * p_B * (1 - p_B))[:, None]).T @ x_BF + precision_FF
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        weights_F = weights_F + step_F * min(1.0, 2.0 / max(float(np.abs(step_F).max()), 1e-12))
        if float(np.abs(step_F).max()) < 1e-8:
            break
    p_B = sigmoid(x_BF @ weights_F)
    return weights_F, (x_BF * (total_B * p_B * (1 - p_B))[:, None]).T @ x_BF + precision_FF


class Moments:
    """Running mean and variance of a feature, by Chan's update."""

    def __init__(self) -> None:
        self.state = np.zeros(3)  # count, mean, sum of squared deviations

    def add(self, values_B: FloatArray) -> None:
        """Count more values."""
        count, mean, squares = self.state
        added, added_mean = len(values_B), float(values_B.mean())
        total, gap = count + added, added_mean - mean
        squares += float(((values_B - added_mean) ** 2).sum()) + gap * gap * count * added / total
        self.state = np.array([total, mean + gap * added / total, squares])

    def standardized(self, values_B: FloatArray) -> FloatArray:
        """Values less the mean over the deviation, within [-4, 4]."""
        count, mean, squares = self.state
        spread = float(np.sqrt(squares / count)) if count else 0.0
        return np.asarray(np.clip((values_B - mean) / (spread or 1.0), -4, 4))


class PassRateModel:
    """The regression and the strength, learned from a run's rollouts.

    Args:
        forget: share of the regression's precision that remains after a step; the rest goes back to the prior.
        pooled: whether sources have effects of their own.
        with_length: whether the length of the prompt is a feature.
        strength: fixed strength of the prior around the mean; None to learn it.
    """

    def __init__(self, forget: float, pooled: bool, with_length: bool, strength: float | None) -> None:
        self.forget, self.pooled, self.with_length, self.fixed_strength = forget, pooled, with_length, strength
        sources = [PRIOR["intercept"], PRIOR["slope"]] * SOURCES if pooled else []
        self.prior_FF: FloatArray = np.diag([PRIOR["common"]] * COMMON + sources)
        self.mean_F: FloatArray = np.zeros(len(self.prior_FF))
        self.precision_FF: FloatArray = self.prior_FF.copy()
        self.log_likelihood_S = np.zeros(len(STRENGTHS_S))
        self.log_ppl, self.log_length = Moments(), Moments()
        self._buckets: dict[str, int] = {}

    @property
    def strength(self) -> float:
        """Posterior geometric mean of the strength, under a uniform prior over the grid."""
        if self.fixed_strength is not None:
            return self.fixed_strength
        weight_S = np.exp(self.log_likelihood_S - self.log_likelihood_S.max())
        return float(np.exp((weight_S * np.log(STRENGTHS_S)).sum() / weight_S.sum()))

    def features(self, prompts: Sequence[Prompt], log_ppl_B: FloatArray) -> FloatArray:
        """Features [B, F]; a prompt without a source has the shared ones alone."""
        z_B = self.log_ppl.standardized(log_ppl_B)
        length_B = self.log_length.standardized(lengths(prompts)) if self.with_length else np.zeros(len(prompts))
        x_BF = np.zeros((len(prompts), len(self.mean_F)))
        x_BF[:, :COMMON] = np.stack([np.ones_like(z_B), z_B, z_B * z_B, length_B], axis=1)
        if self.pooled:
            for row, prompt in enumerate(prompts):
                if prompt.source is not None:
                    place = COMMON + 2 * self._bucket(prompt.source)
                    x_BF[row, place : place + 2] = 1.0, z_B[row]
        return x_BF

    def count(self, prompts: Sequence[Prompt], log_ppl_B: FloatArray) -> None:
        """Count candidates' features in the running moments."""
        self.log_ppl.add(log_ppl_B)
        self.log_length.add(lengths(prompts))

    def drawn_mean(self, x_BF: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Predicted mean pass rates [B] under weights drawn from the posterior (Thompson sampling)."""
        factor_FF = np.linalg.cholesky(self.precision_FF)
        weights_F = self.mean_F + np.linalg.solve(factor_FF.T, rng.standard_normal(len(self.mean_F)))
        return self.predicted(x_BF, weights_F)

    def predicted(self, x_BF: FloatArray, weights_F: FloatArray | None = None) -> FloatArray:
        """Predicted mean pass rates [B], by the posterior mean of the weights unless others are given."""
        return np.clip(sigmoid(x_BF @ (self.mean_F if weights_F is None else weights_F)), 0.005, 0.995)

    def learn(self, x_BF: FloatArray, right_B: FloatArray, total_B: FloatArray, first_B: BoolArray) -> None:
        """Update on a step's outcomes; `first_B` marks first visits, which tell the strength."""
        if first_B.any():
            mean_B = self.predicted(x_BF[first_B])
            self.log_likelihood_S *= MEMORY
            self.log_likelihood_S += log_likelihood(mean_B, right_B[first_B], total_B[first_B])
        worth_B = (self.strength + 1) / (self.strength + total_B)
        prior_FF = self.forget * self.precision_FF + (1 - self.forget) * self.prior_FF
        self.mean_F, self.precision_FF = laplace_update(
            self.mean_F, prior_FF, x_BF, right_B * worth_B, total_B * worth_B
        )

    def state_dict(self) -> State:
        """Everything learned."""
        return {
            "mean": self.mean_F.copy(),
            "precision": self.precision_FF.copy(),
            "log_likelihood": self.log_likelihood_S.copy(),
            "log_ppl": self.log_ppl.state.copy(),
            "log_length": self.log_length.state.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.mean_F, self.precision_FF = state["mean"].copy(), state["precision"].copy()
        self.log_likelihood_S = state["log_likelihood"].copy()
        self.log_ppl.state, self.log_length.state = state["log_ppl"].copy(), state["log_length"].copy()

    def _bucket(self, source: str) -> int:
        if source not in self._buckets:
            self._buckets[source] = derive_seed("source", source) % SOURCES
        return self._buckets[source]


def lengths(prompts: Sequence[Prompt]) -> FloatArray:
    """Log lengths [B] of the prompts in tokens; 0 where a trainer does not tell."""
    return np.log(np.array([prompt.num_tokens or 1 for prompt in prompts], dtype=np.float64))
