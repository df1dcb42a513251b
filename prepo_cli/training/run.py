"""A run's parts, assembled on the main process. loop.py has the training loop, train.py the run's start and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from prepo_cli.data.loading import load_configured_prompts
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.data.stream import PromptStream
from prepo_cli.errors import UsageError
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.training import checkpoint
from prepo_cli.training.batch import record_weights, rollout_rows
from prepo_cli.training.build import longest_prompt
from prepo_cli.training.collect import Collector
from prepo_cli.training.engine_check import EngineMonitor
from prepo_cli.training.evaluation import TrainingEvaluation
from prepo_cli.training.learner import Learner
from prepo_cli.training.limits import Limits
from prepo_cli.training.log import RunLog
from prepo_cli.training.probe import PolicyProbe
from prepo_cli.training.progress import Progress
from prepo_cli.training.rollouts import Collected
from prepo_cli.training.stored_pass_rates import account_for_pass_rates, check_pass_rates
from prepo_cli.training.stored_ppl import check_stored_ppl
from prepo_cli.training.team import Team
from prepo_cli.training.update import Updater
from strategies import StrategySet
from strategies.types import FloatArray, RunInfo, StepContext


class Run:
    """Everything that the loop works with: fixed parts, and the `progress` made so far."""

    log: RunLog

    def __init__(self, config: RunConfig, folder: RunFolder, judge: Judge, learner: Learner) -> None:
        self.config, self.folder, self.learner = config, folder, learner
        training, data = config.training, config.data
        self.dataset = load_configured_prompts(
            data, answer_column=data.answer_column, dataset_config=data.dataset_config
        )
        policy = learner.policy
        renderer = Renderer(policy.tokenizer, data.system_prompt, data.chat_template_kwargs)
        self.prompts = Prompts(self.dataset, renderer, longest_prompt(config, policy))
        order = config.seed if data.seed is None else data.seed
        self.stream = PromptStream(len(self.dataset), order, self.prompts.get)
        self.strategies = StrategySet(config.strategies.model_dump(), self._run_info())
        check_stored_ppl(self.strategies.selector.stored_scopes, self.dataset, config.model, renderer)
        self.team = Team(learner.processes, learner, training.max_tokens_per_micro_batch)
        self.probe = PolicyProbe(self.team, self.prompts)
        full_precision = training.mixed_precision == "no" and config.model.dtype == "float32"
        exact = learner.engine.exact_logprobs and full_precision
        self.updater = Updater(training, self.team, learner.options, exact, config.seed)
        decode = learner.decode
        self.collector = Collector(training, self.strategies, self.stream, self.prompts, self.team, judge, decode)
        self.evaluation = TrainingEvaluation(config, self.team, renderer, judge, self.prompts.max_length)
        self.monitor = None if learner.engine.shares_weights else EngineMonitor(config, self.team, self.prompts)
        self.progress, self.limits = Progress(), Limits(training)
        if self.strategies.reads_pass_rates:
            check_pass_rates(self.dataset, config, renderer)
            account_for_pass_rates(self.dataset, self.progress.costs, data.charge_pass_rates)
            if self.finished:
                raise UsageError("measuring the pass rates took all that the run may cost; raise its limit")
        self._checkpoint_seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether a limit is reached."""
        return self.limits.reached(self.progress)

    def context(self) -> StepContext:
        """The context that strategies see in the next step, including its temperature."""
        ctx = StepContext(
            step=self.progress.step,
            total_steps=self.config.training.total_steps or 0,
            epoch=self.stream.epoch,
            round=0,
            seed=self.config.seed,
            probe=self.probe,
            spent=self.limits.spent(self.progress),
        )
        return replace(ctx, temperature=self.strategies.temperature(ctx))

    def sync_engine(self) -> None:
        """Send the weights to an engine that has its own copy, and check that it loaded them."""
        if self.monitor is not None:
            self.team.sync()
            self.monitor.after_sync()

    def log_step(
        self, metrics: dict[str, Any], seconds: dict[str, float], step: Collected, weights_NT: FloatArray
    ) -> None:
        """Write and show a step's metrics and rollouts; raises RunError if the engine's weights look stale."""
        timings = {**seconds, "checkpoint": self._checkpoint_seconds}
        self._checkpoint_seconds = 0.0
        metrics |= {f"timing_s/{phase}": value for phase, value in timings.items()}
        record_weights(step.trained, weights_NT)
        scored = self.probe.take_scored()
        rows = rollout_rows(step, self.dataset.question, scored) if self.config.reporting.log_rollouts else None
        self.log.step(metrics, rows)
        if self.monitor is not None:
            self.monitor.refuse_stale(metrics["step"], metrics.get("sampling/logp_difference", 0.0))

    def after_step(self, rolled_out: int) -> None:
        """Evaluate and save if due, after a step of that many rollouts."""
        step = self.progress.step
        if self.evaluation.is_due(self.progress, rolled_out) and not self.finished:
            self.evaluate()
        if step % self.config.training.save_steps == 0 or self.finished or self.progress.stop_requested:
            self.save()

    def evaluate(self) -> None:
        """Answer the evaluation set, if there is one, and log the result."""
        line = self.evaluation.run(self.progress)
        if line is not None:
            self.log.evaluation(line)

    def save(self) -> None:
        """Write a checkpoint of everything that affects the next step."""
        started = perf_counter()
        folder, keep = self.folder.checkpoints, self.config.training.save_total_limit
        checkpoint.save(folder, self.progress.step, self.team.save, self.state_dict(), keep)
        self._checkpoint_seconds = perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """The state besides model and optimiser."""
        return {
            "progress": self.progress.state_dict(),
            "stream": self.stream.state_dict(),
            "strategies": self.strategies.state_dict(),
            "lengths": self.collector.lengths.state_dict(),
        }

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint, whose model and optimiser the learner has already loaded."""
        self.load_state_dict(checkpoint.read_state(folder))
        self.folder.truncate(self.progress.step, self.finished)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.progress.load_state_dict(state["progress"])
        self.stream.load_state_dict(state["stream"])
        self.strategies.load_state_dict(state["strategies"])
        self.collector.lengths.load_state_dict(state["lengths"])

    def _run_info(self) -> RunInfo:
        training = self.config.training
        return RunInfo(
            num_prompts=len(self.dataset),
            total_steps=training.total_steps or 0,
            prompts_per_step=training.prompts_per_step,
            num_generations=training.num_generations,
            seed=self.config.seed,
            vocab_size=self.learner.policy.vocab_size,
            columns=self.dataset.columns,
        )
