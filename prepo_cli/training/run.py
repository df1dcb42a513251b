"""A run's parts, assembled on the main process. loop.py has the training loop, train.py the run's start and end."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from prepo_cli.data.columns import gold_text
from prepo_cli.data.fingerprint import fingerprint, refuse_changes
from prepo_cli.data.holdout import hold_out
from prepo_cli.data.loading import PromptDataset, load_configured_prompts
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.data.stream import PromptStream
from prepo_cli.errors import RunError, UsageError, one_line
from prepo_cli.files import read_lines
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say
from prepo_cli.training import checkpoint
from prepo_cli.training.advice import advice, example
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
from prepo_cli.training.rollouts import Collected, Sample
from prepo_cli.training.skips import SAVED_STEPS, skipped_rows
from prepo_cli.training.stored_pass_rates import account_for_pass_rates, check_pass_rates
from prepo_cli.training.stored_ppl import check_stored_ppl
from prepo_cli.training.symptoms import Symptoms
from prepo_cli.training.team import Team
from prepo_cli.training.update import Updater
from prepo_cli.training.update_stats import UpdateStats
from prepo_cli.training.whole_folder import whole_folder
from strategies import StrategySet
from strategies.types import FloatArray, RunInfo, StepContext


class Run:
    """Everything that the loop works with: fixed parts, and the `progress` made so far."""

    log: RunLog

    def __init__(self, config: RunConfig, folder: RunFolder, judge: Judge, learner: Learner) -> None:
        self.config, self.folder, self.learner = config, folder, learner
        training, data = config.training, config.data
        dataset = load_configured_prompts(
            data,
            answer_column=data.answer_column,
            need_answer=judge.needs_answers,
            dataset_config=data.dataset_config,
        )
        evaluation = config.evaluation
        holdout = hold_out(dataset, evaluation.holdout or 0, evaluation.limit) if evaluation.holds_out else None
        self.dataset = dataset if holdout is None else holdout.train
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
        self.evaluation = TrainingEvaluation(config, self.team, renderer, judge, self.prompts.max_length, holdout)
        self.monitor = None if learner.engine.shares_weights else EngineMonitor(config, self.team, self.prompts)
        self.progress, self.limits, self.symptoms = Progress(), Limits(training), Symptoms()
        if self.strategies.reads_pass_rates:
            check_pass_rates(self.dataset, config, renderer)
            account_for_pass_rates(self.dataset, self.progress.costs, data.charge_pass_rates)
            if self.finished:
                raise UsageError("measuring the pass rates already used up the run's cost limit; raise it")
        self._checkpoint_seconds = self._log_seconds = 0.0
        self._saved_step = 0
        self._sound: dict[str, Any] | None = None

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
        self, metrics: dict[str, Any], seconds: dict[str, float], step: Collected[Sample], weights_NT: FloatArray
    ) -> None:
        """Write and show a step's metrics and rollouts; raises RunError if the engine's weights look stale."""
        timings = {**seconds, "checkpoint": self._checkpoint_seconds, "log": self._log_seconds}
        self._checkpoint_seconds, started = 0.0, perf_counter()
        metrics |= {f"timing_s/{phase}": value for phase, value in timings.items()}
        record_weights(step.trained, weights_NT)
        scored = self.probe.take_scored()
        rows = rollout_rows(step, self.dataset, scored) if self.config.reporting.log_rollouts else None
        self.log.step(metrics, rows)
        self._log_seconds = perf_counter() - started
        self._warn(metrics, step)
        if self.monitor is not None:
            self.monitor.refuse_stale(metrics["step"], metrics.get("sampling/logp_difference", 0.0))

    def begin_step(self) -> None:
        """Keep the state that a step starts from, since collecting rollouts changes the stream and the strategies."""
        self._sound = deepcopy(self.state_dict()) if self.progress.step > self._saved_step else None

    def begin_update(self) -> None:
        """From here until its metrics are written, a step can't be saved: weights and state are of different steps."""
        self._sound = None

    def record_skipped(self, step: int, update: UpdateStats) -> None:
        """Report a step's skipped updates, and save their samples for inspection if few steps had any so far."""
        if not update.skipped_steps:
            return
        skips, where = self.updater.skips, ""
        updates = "1 update" if update.skipped_steps == 1 else f"{update.skipped_steps} updates"
        if skips.saved_steps < SAVED_STEPS:
            skips.saved_steps += 1
            where = f"; their samples are in {self.folder.write_skipped(step, skipped_rows(update.skipped))}"
        say(f"step {step}: skipped {updates} whose loss or gradient was not finite{where}")

    def after_step(self, rolled_out: int) -> None:
        """Evaluate and save if due, after a step of that many rollouts.

        Raises:
            RunError: too many updates in a row were skipped; a checkpoint with the last good weights is written.
        """
        step = self.progress.step
        self.progress.evaluation_due = self.evaluation.is_due(self.progress, rolled_out)
        self._sound = self.state_dict()
        if self.updater.skips.exhausted:
            raise RunError(
                f"the last {self.updater.skips.in_a_row} updates were skipped (loss or gradient "
                f"not finite); the last good weights are in {self.save()}: inspect the samples in "
                f"{self.folder.skipped}, fix the reward or the weighting, then continue with "
                "--resume"
            )
        if self.progress.evaluation_due and not self.finished:
            self.evaluate()
        if step % self.config.training.save_steps == 0 or self.finished or self.progress.stop_requested:
            self.save()

    def evaluate(self) -> None:
        """Answer the evaluation set, if there is one, and log the result."""
        line = self.evaluation.run(self.progress)
        if line is not None:
            self.log.evaluation(line)
        self.progress.evaluation_due = False

    def save(self) -> Path:
        """Write a checkpoint of everything that affects the next step."""
        self._sound = None  # where saving fails, there is no use in trying again
        started = perf_counter()
        path = self._save(self.state_dict())
        self._checkpoint_seconds = perf_counter() - started
        return path

    def rescue(self) -> None:
        """After a failure, write a checkpoint if the run has a sound state that none holds yet.

        It has one while rollouts are collected (also in rewards and strategies) and scored: the state before the step,
        whose weights are still unchanged. It has one after a step, while the policy is evaluated. It has none from the
        first optimizer step until the step's metrics are written, when a checkpoint itself could not be written, or
        when the failure came in the middle of what several processes do together.
        """
        state, self._sound = self._sound, None
        if state is None or not self.team.processes.reachable:
            return
        try:
            say(f"saved {self._save(state).name}; continue from there with --resume")
        except (RunError, RuntimeError) as error:  # a device that failed may not give the weights
            say(f"the state before the failure can't be saved: {one_line(error)}")

    def export(self) -> None:
        """Write the trained model in the hub's format."""
        needed = checkpoint.model_bytes(self.learner.policy.model.parameters())
        with whole_folder(self.folder.final, needed) as partial:
            self.team.export(partial)

    def state_dict(self) -> dict[str, Any]:
        """The state besides model and optimizer."""
        return {
            "progress": self.progress.state_dict(),
            "stream": self.stream.state_dict(),
            "strategies": self.strategies.state_dict(),
            "lengths": self.collector.lengths.state_dict(),
            "skips": self.updater.skips.state_dict(),
        }

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint, whose model and optimizer the learner has already loaded."""
        state = checkpoint.read_state(folder)
        refuse_changes(state["fingerprint"], self._fingerprint, self._datasets)
        self.load_state_dict(state)
        self._saved_step = self.progress.step
        self.folder.truncate(self.progress.step, self.finished)
        if self.folder.evaluated(self.progress.step):  # at the end, before the run was extended
            self.progress.evaluation_due = False
        for line in read_lines(self.folder.metrics):  # what they show has been said
            self.symptoms.observe(line)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.progress.load_state_dict(state["progress"])
        self.stream.load_state_dict(state["stream"])
        self.strategies.load_state_dict(state["strategies"])
        self.collector.lengths.load_state_dict(state["lengths"])
        self.updater.skips.load_state_dict(state["skips"])

    def _warn(self, metrics: Mapping[str, Any], step: Collected[Sample]) -> None:
        """Say what shows for the first time that the run does not learn."""
        for symptom, figures in self.symptoms.observe(metrics).items():
            say(f"warning: step {metrics['step']}: {advice(symptom, figures, self.config)}")
            if symptom == "no_reward":
                sample = step.samples[0]
                say(example(sample.prompt.id, gold_text(self.dataset.answer(sample.prompt.index)), sample.text))

    def _save(self, state: Mapping[str, Any]) -> Path:
        keep, step = self.config.training.save_total_limit, state["progress"]["step"]
        expected = checkpoint.expected_bytes(self.learner.policy, self.learner.layout.parameters)
        state = {**state, "fingerprint": self._fingerprint}
        path = checkpoint.save(self.folder.checkpoints, step, self.team.save, state, keep, expected)
        self._saved_step = step
        return path

    @property
    def _datasets(self) -> dict[str, PromptDataset]:
        return {"training set": self.dataset, **self.evaluation.datasets}

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same when a run is resumed, though no checkpoint holds it."""
        frozen = self.learner.frozen_weights
        more = {} if frozen is None else {"base_model": frozen}
        return fingerprint(self._datasets, self.prompts.renderer, **more)

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
