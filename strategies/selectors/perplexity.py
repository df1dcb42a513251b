"""Shared by selectors by perplexity: their parameters, and perplexities that are live or stored in the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from strategies.errors import StrategyError
from strategies.selectors.candidates import CandidateParams
from strategies.types import FloatArray, Prompt, RunInfo, StepContext


class PerplexityParams(CandidateParams):
    """Which tokens are scored, and by which model."""

    scope: Literal["question", "prompt"] = Field(
        "question", description="score the question's tokens, or the whole rendered prompt"
    )
    source: Literal["live", "stored"] = Field(
        "live", description="perplexity under the current policy, or from the `ppl` column"
    )

    @property
    def stored_scopes(self) -> frozenset[str]:
        return frozenset({self.scope}) if self.source == "stored" else frozenset()

    def check_column(self, selector: str, run: RunInfo) -> None:
        """Raise StrategyError if source=stored but the dataset has no column `ppl`."""
        if self.source == "stored" and "ppl" not in run.columns:
            raise StrategyError(
                f"selector '{selector}': source=stored needs a column 'ppl'; write it with: prepo score-ppl DATASET"
            )

    def perplexities(self, selector: str, prompts: Sequence[Prompt], ctx: StepContext) -> FloatArray:
        """Perplexity of each prompt, float64 [B]."""
        if self.source == "live":
            return ctx.probe.perplexity(prompts, self.scope)
        missing = [prompt.id for prompt in prompts if prompt.ppl is None]
        if missing:
            raise StrategyError(
                f"selector '{selector}': prompt '{missing[0]}' has no stored 'ppl'; score it with prepo score-ppl, or "
                "remove it from the dataset"
            )
        return np.array([prompt.ppl for prompt in prompts], dtype=np.float64)
