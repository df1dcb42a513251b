"""prepo's side of a run in another trainer: strategies, the stream that they draw from, costs, and the step it is at.

The trainer's adapter calls, step by step, `begin`, `collect`, `weigh` and `end`; it rolls out (`Roll`), applies the
weights, and logs what `end` returns. With several processes each has a session; they agree since strategies see the
same groups everywhere and draw randomness only from the run's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from prepo_cli.data.stream import PromptStream
from prepo_cli.training.batch import rollout_metrics
from prepo_cli.training.costs import Costs
from prepo_cli.training.rollouts import Collected, Fate
from prepo_cli.training.rounds import BatchShape, Roll, Rounds
from prepo_cli.training.stopwatch import Stopwatch
from strategies import StrategySet
from strategies.types import Batch, Completion, FloatArray, NoProbe, Probe, Prompt, StepContext, StepReport


@dataclass(slots=True)
class Outcome:
    """What prepo needs to know of a rollout that another trainer keeps; `row` is where it does."""

    prompt: Prompt
    reward: float
    correct: bool
    num_tokens: int
    truncated: bool
    temperature: float
    row: int
    scored: bool = True
    """Whether any reward function gave it a value; its reward is 0 if not."""
    fate: Fate = "trained"
    advantage: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether it belongs to the training batch, masked or not."""
        return self.fate in ("trained", "masked")

    def completion(self) -> Completion:
        """The rollout as strategies see it."""
        return Completion(self.reward, self.correct, self.num_tokens, self.truncated, self.temperature)


class Session:
    """A run of the strategies in another trainer. `step` counts generated batches."""

    def __init__(
        self, strategies: StrategySet, stream: PromptStream, shape: BatchShape, probe: Probe | None = None
    ) -> None:
        self.strategies, self.stream, self.shape = strategies, stream, shape
        self.probe: Probe = probe or NoProbe()
        self.costs, self.step = Costs(), 0
        self._report: StepReport | None = None

    @property
    def needs_entropy(self) -> bool:
        """Whether `weigh` needs the batch's entropies."""
        return self.strategies.weighting.needs_entropy

    def begin(self) -> StepContext:
        """The context of the next step, with its temperature."""
        run = self.strategies.run
        ctx = StepContext(self.step, run.total_steps, self.stream.epoch, 0, run.seed, probe=self.probe)
        self._watch = Stopwatch()
        with self._watch.phase("select"):
            self._ctx = replace(ctx, temperature=self.strategies.temperature(ctx))
        return self._ctx

    def charge(self, rollouts: int, tokens_generated: int, tokens_scored: int) -> None:
        """Charge what a trainer computes besides the rollouts of groups: scoring passes, and rollouts left unused."""
        self.costs.rollouts_total += rollouts
        self.costs.tokens_generated += tokens_generated
        self.costs.tokens_scored += tokens_scored

    def collect(self, roll: Roll[Outcome]) -> Collected[Outcome]:
        """Roll out the step's batch, and charge it."""
        self._collected = Rounds(self.strategies, self.stream, self.shape, roll).collect(self._ctx, self._watch)
        self.costs.charge(self._collected, 0, 0.0)
        return self._collected

    def weigh(self, batch: Batch) -> FloatArray:
        """Weights [N, 1] or [N, T] of what the update will train on."""
        weights_NT = self.strategies.weigh(batch, self._ctx)
        ctx, costs = self._ctx, self.costs
        self._report = StepReport(
            step=ctx.step,
            total_steps=ctx.total_steps,
            epoch=ctx.epoch,
            epochs_ended=self.stream.epoch - ctx.epoch,
            temperature=ctx.temperature,
            entropy=batch.token_mean_entropy,
            reward=float(batch.rewards_N.mean()) if len(batch.rewards_N) else 0.0,
            updated=bool((weights_NT * batch.advantages_N[:, None]).any()),
            rollouts_total=costs.rollouts_total,
            rollouts_trained=costs.rollouts_trained,
        )
        return weights_NT

    def end(self, entropy: float | None) -> dict[str, float]:
        """End the step after its update; `entropy` is the update's own, used where the batch's was not computed.

        Returns:
            The step's metrics, under the names of prepo's own trainer; those of `costs` are totals.
        """
        assert self._report is not None
        report = self._report
        if report.entropy is None:
            report = replace(report, entropy=entropy)
        self._close(report)
        return {
            **rollout_metrics(self._collected),
            "reward_trained": report.reward,
            "temperature": report.temperature,
            "timing_s/select": self._watch.seconds["select"],
            **self.strategies.metrics(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that affects the next step; also in the middle of a step, as between two updates on one batch."""
        return {
            "step": self.step,
            "costs": asdict(self.costs),
            "stream": self.stream.state_dict(),
            "strategies": self.strategies.state_dict(),
            "open": None if self._report is None else asdict(self._report),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. A step that it was in the middle of counts as ended.

        Raises:
            UsageError: the state belongs to another training set.
            StrategyError: it was written with other strategies.
        """
        self.step, self.costs = state["step"], Costs(**state["costs"])
        self.stream.load_state_dict(state["stream"])
        self.strategies.load_state_dict(state["strategies"])
        if state["open"] is not None:
            self._close(StepReport(**state["open"]))

    def _close(self, report: StepReport) -> None:
        self.strategies.end_step(report)
        self.step, self._report = self.step + 1, None
