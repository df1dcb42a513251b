"""Group sizes in inverse proportion to the stored pass rate, as in sGPO (2606.08854).

The paper gives a prompt of pass rate p about 1 / p rollouts, so that one of them is expected to be correct. Here a
step's total is fixed: the sizes are c / p, limited to a minimum and a maximum, with c such that they add up to the
total. A prompt that was never solved counts as one solved once in `maximum` rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from strategies.base import BudgetAllocator, StrategyParams
from strategies.errors import StrategyError
from strategies.pass_rates import check_column, pass_rates
from strategies.registry import register
from strategies.types import FloatArray, IntArray, Prompt, RunInfo, StepContext

HALVINGS = 100


def scaled_sizes(weight_n: FloatArray, total: int, low: int, high: int) -> IntArray:
    """Whole numbers between low and high in proportion to the weights (> 0), which sum to `total`.

    The common factor is found by bisection, because the limited sum grows with it; then the sizes are rounded down, and
    what is missing goes one by one to the largest remainders, ties to the earlier.

    >>> scaled_sizes(np.array([1.0, 2.0, 5.0]), total=16, low=2, high=32).tolist()
    [2, 4, 10]
    >>> scaled_sizes(np.array([1.0, 2.0, 9.0]), total=16, low=2, high=8).tolist()
    [3, 5, 8]

    Raises:
        ValueError: no sizes within the limits sum to `total`.
    """
    if not low * len(weight_n) <= total <= high * len(weight_n):
        raise ValueError(f"{len(weight_n)} sizes of {low} to {high} can't sum to {total}")
    smallest, largest = 0.0, high / float(weight_n.min())
    for _ in range(HALVINGS):
        middle = (smallest + largest) / 2
        if np.clip(middle * weight_n, low, high).sum() < total:
            smallest = middle
        else:
            largest = middle
    ideal_n = np.clip(largest * weight_n, low, high)
    # The factor carries rounding errors, which must not turn a whole number into the next lower one.
    size_n: IntArray = np.floor(ideal_n + 1e-9).astype(np.int64)
    missing = total - int(size_n.sum())
    open_n = np.flatnonzero(size_n < high)
    by_remainder = open_n[np.argsort(size_n[open_n] - ideal_n[open_n], kind="stable")]
    size_n[by_remainder[:missing]] += 1
    return size_n


@register("inverse-pass-rate")
class InversePassRate(BudgetAllocator):
    """Gives each prompt rollouts in inverse proportion to its stored pass rate, within limits."""

    paper = "2606.08854"
    reads_pass_rates = True

    class Params(StrategyParams):
        """The limits."""

        minimum: int = Field(2, ge=2, le=2**16, description="minimum number of rollouts per prompt")
        maximum: int | None = Field(
            None, ge=2, le=2**16, description="maximum number of rollouts per prompt (default: 4 x num_generations)"
        )

    @classmethod
    def check(cls, params: Any, run: RunInfo) -> None:
        check_column(f"budget '{cls.name}'", run)
        g, maximum = run.num_generations, params.maximum or 4 * run.num_generations
        if not params.minimum <= g <= maximum:
            raise StrategyError(
                f"budget '{cls.name}': num_generations={g}, the mean number of rollouts per prompt, is not between "
                f"minimum={params.minimum} and maximum={maximum}; change the limits"
            )

    def allocate(self, prompts: Sequence[Prompt], total: int, ctx: StepContext) -> list[int]:
        high = self.params.maximum or 4 * self.run.num_generations
        p_n = pass_rates(f"budget '{self.name}'", prompts)
        weight_n = 1 / np.maximum(p_n, 1 / high)
        return [int(size) for size in scaled_sizes(weight_n, total, self.params.minimum, high)]
