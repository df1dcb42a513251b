"""Chains of selectors: each takes its candidates from the one before it.

In `greso+ppl-schedule` the schedule selects among the prompts that GRESO lets through. A chain is itself a selector, so
chains nest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strategies.base import Selector, State, StrategyParams
from strategies.types import Group, Prompt, PromptSource, RunInfo, StepContext, StepReport


@dataclass(frozen=True)
class _Through:
    """A source of the prompts that pass a selector."""

    selector: Selector
    source: PromptSource
    ctx: StepContext

    @property
    def epoch(self) -> int:
        return self.source.epoch

    def take(self, m: int) -> list[Prompt]:
        return self.selector.select(m, self.source, self.ctx)


class Chain(Selector):
    """Selectors in sequence, from the stream to the batch."""

    def __init__(self, selectors: Sequence[Selector], run: RunInfo) -> None:
        super().__init__(StrategyParams(), run)
        self.selectors = tuple(selectors)
        self.name = "+".join(s.name for s in selectors)  # type: ignore[misc]  # each chain has its own name
        self.reads_pass_rates = any(s.reads_pass_rates for s in selectors)  # type: ignore[misc]  # as above

    @property
    def stored_scopes(self) -> frozenset[str]:
        return frozenset().union(*(s.stored_scopes for s in self.selectors))

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        for selector in self.selectors[:-1]:
            source = _Through(selector, source, ctx)
        return self.selectors[-1].select(n, source, ctx)

    def notes(self) -> list[str]:
        return [note for selector in self.selectors for note in selector.notes()]

    def observe(self, groups: Sequence[Group], ctx: StepContext) -> None:
        for selector in self.selectors:
            selector.observe(groups, ctx)

    def end_step(self, report: StepReport) -> None:
        for selector in self.selectors:
            selector.end_step(report)

    def metrics(self) -> dict[str, float]:
        return {key: value for s in self.selectors for key, value in s.metrics().items()}

    def state_dict(self) -> State:
        return {str(i): {"name": s.name, "state": s.state_dict()} for i, s in enumerate(self.selectors)}

    def load_state_dict(self, state: State) -> None:
        names = [part["name"] for part in state.values()]
        if names != [s.name for s in self.selectors]:
            raise ValueError(
                f"the checkpoint was written with selector '{'+'.join(names)}', this run has '{self.name}'"
            )
        for selector, part in zip(self.selectors, state.values(), strict=True):
            selector.load_state_dict(part["state"])
