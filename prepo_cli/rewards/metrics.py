"""Reward metrics of the log: mean and standard deviation by function, under TRL's names.

As in TRL, completions that a function does not apply to (NaN) are left out, and the deviation is the sample's (n - 1).
Where TRL logs NaN, because nothing or a single value is left, the metric is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prepo_cli.errors import RunError
from prepo_cli.rewards.judge import FloatArray, Scores


def reward_metrics(scores: Sequence[Scores]) -> dict[str, float]:
    """`rewards/<name>/mean` and `/std`, `rewards/errors` and `rewards/timeouts` over all calls of the judge in a step.

    >>> import numpy as np
    >>> rounds = [
    ...     Scores(np.array([1.0, 0.0]), {"math": np.array([1.0, np.nan])}, np.array([True, False]), 0, 1),
    ...     Scores(np.array([0.0, 1.0]), {"math": np.array([0.0, 1.0])}, np.array([False, True]), 0, 0),
    ... ]
    >>> {name: round(value, 3) for name, value in reward_metrics(rounds).items()}
    {'rewards/math/mean': 0.667, 'rewards/math/std': 0.577, 'rewards/errors': 1, 'rewards/timeouts': 0}
    """
    metrics: dict[str, float] = {}
    for name in scores[0].by_function if scores else ():
        moments = mean_and_std(np.concatenate([each.by_function[name] for each in scores]))
        metrics |= {f"rewards/{name}/{key}": value for key, value in moments.items()}
    counts = {"errors": sum(each.errors for each in scores), "timeouts": sum(each.timeouts for each in scores)}
    return metrics | {f"rewards/{name}": count for name, count in counts.items()}


def refuse_unscored(parts: Sequence[Mapping[str, FloatArray]], what: str) -> None:
    """Refuse values by function, as `Scores` has them, of which not one is a number: nothing can be learned from them.

    Raises:
        RunError: all are NaN.
    """
    if any(len(values_N) for values in parts for values_N in values.values()) and all(
        np.isnan(values_N).all() for values in parts for values_N in values.values()
    ):
        raise RunError(
            f"no reward function ({', '.join(parts[0])}) returned a finite number for any "
            f"completion of {what}; fix it, then start again"
        )


def mean_and_std(values_N: FloatArray) -> dict[str, float]:
    """`mean` and sample deviation `std` of the values that are not NaN; what they don't define is left out.

    >>> mean_and_std(np.array([1.0, 0.0, np.nan, 0.5]))
    {'mean': 0.5, 'std': 0.5}
    >>> mean_and_std(np.array([2.0, np.nan]))
    {'mean': 2.0}
    """
    known_M = values_N[~np.isnan(values_N)]
    moments = {"mean": float(known_M.mean())} if len(known_M) else {}
    return moments | ({"std": float(known_M.std(ddof=1))} if len(known_M) > 1 else {})
