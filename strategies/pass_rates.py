"""Stored pass rates (`Prompt.pass_rate`), measured with rollouts before the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.errors import StrategyError
from strategies.types import FloatArray, Prompt, RunInfo


def check_column(strategy: str, run: RunInfo) -> None:
    """Raise StrategyError if the dataset has no pass rates; `strategy` is its slot and name."""
    if "pass_rate" not in run.columns:
        raise StrategyError(
            f"{strategy} needs a column 'pass_rate', which the dataset lacks; add it with: prepo score-passrate DATASET"
        )


def pass_rates(strategy: str, prompts: Sequence[Prompt]) -> FloatArray:
    """Stored pass rate of each prompt, float64 [n].

    Raises:
        StrategyError: a prompt has none, or one outside 0 to 1.
    """
    p_n = np.array([np.nan if prompt.pass_rate is None else prompt.pass_rate for prompt in prompts], dtype=np.float64)
    wrong_n = np.flatnonzero(~((p_n >= 0) & (p_n <= 1)))
    if len(wrong_n):
        prompt = prompts[int(wrong_n[0])]
        fault = "no value" if np.isnan(p_n[wrong_n[0]]) else f"{prompt.pass_rate:g}, which is not between 0 and 1,"
        raise StrategyError(
            f"{strategy}: prompt '{prompt.id}' has {fault} in column 'pass_rate'; score it with prepo score-passrate, "
            "or remove it from the dataset"
        )
    return p_n
