"""Statistics of pass rates that k samples per prompt estimate, as pure functions.

Axis letters: P prompts; C = k + 1 possible numbers of correct samples, from 0 to k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.statistics import FloatArray, Interval, mean_interval, pass_at_k, wilson

IntArray = npt.NDArray[np.int64]
GROUP = 8
"""Rollouts of the group whose expected share of zero variance is reported."""
PARTS = 10


def zero_variance_share(prompts_C: npt.ArrayLike, group: int) -> float:
    """Expected share of groups whose samples are all correct or all wrong, unbiased for `group` <= k.

    `prompts_C` counts the prompts by how many of their k samples are correct. A group drawn from a prompt's k samples
    is all wrong with probability 1 - pass@group; with the roles swapped, that is the probability of all correct.

    >>> zero_variance_share([1, 0, 2, 0, 1], group=4), zero_variance_share([1, 0, 2, 0, 1], group=1)
    (0.5, 1.0)
    >>> round(zero_variance_share([0, 0, 1, 0, 0], group=2), 3)  # 2 of 4 correct: a third of the pairs are equal
    0.333
    """
    counts_C = np.asarray(prompts_C, dtype=np.int64)
    k = len(counts_C) - 1
    right_C = np.arange(k + 1)
    equal_C = 2.0 - pass_at_k(k, right_C, group) - pass_at_k(k, k - right_C, group)
    return float(equal_C @ counts_C / counts_C.sum())


def distribution(prompts_C: npt.ArrayLike) -> dict[str, Any]:
    """Mean, deciles, and the shares of prompts always, never and sometimes solved with 95% intervals; plain types.

    `dead` are those always or never solved. The zero-variance share is that of a group of 8, or of k where k is less:
    more rollouts would make it smaller.

    >>> report = distribution([3, 1, 1, 1, 4])
    >>> report["mean"], report["never"]["value"], report["dead"]["value"], report["zero_variance"]
    (0.55, 0.3, 0.7, {'group': 4, 'value': 0.7})
    """
    counts_C = np.asarray(prompts_C, dtype=np.int64)
    k, total = len(counts_C) - 1, int(counts_C.sum())
    rates_C = np.arange(k + 1) / k
    shares = {"always": counts_C[k], "never": counts_C[0], "varying": counts_C[1:k].sum()}
    shares["dead"] = total - shares["varying"]
    group = min(GROUP, k)
    deciles = np.quantile(rates_C, np.arange(1, 10) / 10, weights=counts_C, method="inverted_cdf")
    return {
        "mean": float(rates_C @ counts_C / total),
        "deciles": deciles.tolist(),
        "counts": counts_C.tolist(),
        **{name: share(int(count), total) for name, count in shares.items()},
        "zero_variance": {"group": group, "value": zero_variance_share(counts_C, group)},
    }


def share(count: int, total: int) -> dict[str, float]:
    """`count` of `total` as a share with its 95% Wilson interval.

    >>> {name: round(value, 3) for name, value in share(5, 20).items()}
    {'value': 0.25, 'low': 0.112, 'high': 0.469}
    """
    low, high = wilson(count, total)
    return Interval(count / total, float(low), float(high))._asdict()


def by_perplexity(ppl_P: FloatArray, rate_P: FloatArray) -> list[dict[str, Any]]:
    """Mean pass rate with its 95% interval in ten equal parts of the prompts by perplexity, lowest first; plain types.

    Prompts without a perplexity or pass rate (NaN) are left out.

    >>> parts = by_perplexity(np.arange(1.0, 41.0), np.repeat([1.0, 0.5], 20))
    >>> len(parts), parts[0]["prompts"], parts[0]["ppl_high"], parts[9]["pass_rate"]["value"]
    (10, 4, 4.0, 0.5)
    """
    known_P = np.isfinite(ppl_P) & np.isfinite(rate_P)
    ppl_P, rate_P = ppl_P[known_P], rate_P[known_P]
    order_P = np.argsort(ppl_P, kind="stable")
    return [
        {
            "prompts": len(rows),
            "ppl_low": float(ppl_P[rows[0]]),
            "ppl_high": float(ppl_P[rows[-1]]),
            "pass_rate": mean_interval(rate_P[rows])._asdict(),
        }
        for rows in np.array_split(order_P, PARTS)
        if len(rows)
    ]
