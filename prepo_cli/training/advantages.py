"""Group-relative advantages (GRPO, 2402.03300): A = (r - mean) / (std + 1e-6) over a group.

A group consists of the rollouts that the filter keeps, masked ones included. The standard deviation is that of the
sample (n - 1), as in TRL and verl. A single rollout, or rollouts of equal reward, have advantage 0. `batch` divides by
the standard deviation of the whole batch instead; `none` does not divide (Dr. GRPO, 2503.20783).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

EPSILON = 1e-6


def advantages(
    rewards_N: npt.NDArray[np.float64],
    group_N: npt.NDArray[np.integer[Any]],
    scale_rewards: str = "group",
    epsilon: float = EPSILON,
) -> npt.NDArray[np.float64]:
    """Advantages [N] of rollouts with rewards [N] in groups numbered [N]; not finite if sums of rewards overflow.

    `epsilon` is what other trainers add to the deviation: TRL 1e-4.

    >>> advantages(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]), "none")
    array([ 0.5, -0.5,  0. ,  0. ])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _advantages(rewards_N, group_N, scale_rewards, epsilon)


def _advantages(
    rewards_N: npt.NDArray[np.float64], group_N: npt.NDArray[np.integer[Any]], scale_rewards: str, epsilon: float
) -> npt.NDArray[np.float64]:
    _, group_N = np.unique(group_N, return_inverse=True)
    counts_G = np.bincount(group_N)
    means_G = np.bincount(group_N, rewards_N) / counts_G
    highest_G = np.full(len(counts_G), -np.inf)
    lowest_G = np.full(len(counts_G), np.inf)
    np.maximum.at(highest_G, group_N, rewards_N)
    np.minimum.at(lowest_G, group_N, rewards_N)
    # Exactly 0 for equal rewards, from which their mean may differ by rounding.
    centered_N = np.where((highest_G == lowest_G)[group_N], 0.0, rewards_N - means_G[group_N])
    if scale_rewards == "none":
        return centered_N
    if scale_rewards == "batch":
        return centered_N / (float(np.std(rewards_N, ddof=1)) + epsilon) if len(rewards_N) > 1 else centered_N
    variance_G = np.bincount(group_N, centered_N**2) / np.maximum(counts_G - 1, 1)
    return np.asarray(centered_N / (np.sqrt(variance_G)[group_N] + epsilon))
