"""A run: its parts put together, resumed, evaluated, trained and summed up.

`train` is the one call behind `prepo train`. The loop itself is in loop.py.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from prepo_cli.data.loading import load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.data.stream import PromptStream
from prepo_cli.distributed.processes import Processes
from prepo_cli.errors import RunError
from prepo_cli.evaluation.evaluate import evaluate
from prepo_cli.policy.tensors import size
from prepo_cli.reporting.hub import check_hub
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.summary import build_summary
from prepo_cli.reporting.trackers import Trackers, check_trackers
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import TrainingDisplay, progress, say
from prepo_cli.training import checkpoint
from prepo_cli.training.batch import record_weights, rollout_rows
from prepo_cli.training.collect import Collected, Collector, Sample
from prepo_cli.training.costs import Costs
from prepo_cli.training.engine_check import check_engine
from prepo_cli.training.learner import Learner, build_learner, longest_prompt
from prepo_cli.training.prompts import PolicyProbe, Prompts
from prepo_cli.training.schedule import learning_rate
from prepo_cli.training.team import Team
from prepo_cli.training.update import Updater
from strategies.strategy_set import StrategySet
from strategies.types import FloatArray, RunInfo

ENGINE_CHECKS = 3
"""Weight syncs after which a foreign engine's greedy answers are compared: the first one and those of two updates."""
CHECKED_PROMPTS = 4


class Run:
    """Everything that the loop works with, on the main process."""

    def __init__(self, config: RunConfig, folder: RunFolder, judge: Judge, learner: Learner) -> None:
        self.config, self.folder, self.judge, self.learner = config, folder, judge, learner
        training = config.training
        self.policy = learner.policy
        self.dataset = load_prompts(
            config.data.dataset_name,
            split=config.data.split,
            limit=config.data.limit,
            prompt_column=config.data.prompt_column,
            answer_column=config.data.answer_column,
            skip_bad_rows=config.data.skip_bad_rows,
            dataset_config=config.data.dataset_config,
        )
        self.renderer = Renderer(self.policy.tokenizer, config.data.system_prompt, config.data.chat_template_kwargs)
        self.prompts = Prompts(self.dataset, self.renderer, longest_prompt(config, self.policy))
        order = config.seed if config.data.seed is None else config.data.seed
        self.stream = PromptStream(len(self.dataset), order, self.prompts.get)
        self.strategies = StrategySet(config.strategies.model_dump(), self._run_info())
        self.team = Team(learner.processes, learner, training.max_tokens_per_micro_batch)
        self.probe = PolicyProbe(self.team.perplexity, self.prompts)
        exact = config.engine.name == "hf" and training.mixed_precision == "no" and config.model.dtype == "float32"
        self.updater = Updater(training, self.team, learner.options, exact)
        self.collector = Collector(config, self.strategies, self.stream, self.prompts, self.team, judge, self._decode)
        self.costs = Costs()
        self.step = 0
        self.learning_rate = training.learning_rate
        self.stop_requested = False
        self.checkpoint_seconds = 0.0
        self.engine_checks = ENGINE_CHECKS
        self.trackers: Trackers
        self.display: TrainingDisplay

    def begin_step(self) -> None:
        """Set what depends on the step's number alone."""
        self.learning_rate = learning_rate(self.config.training, self.step)

    def take_entropies(self, groups: Sequence[Sequence[Sample]]) -> None:
        """Entropy of every completion token: the engine's record, or a forward pass where the engine keeps none."""
        samples = [sample for group in groups for sample in group]
        for sample in samples:
            sample.entropies = sample.rollout.entropies
        missing = [sample for sample in samples if sample.entropies is None]
        scores = self.team.score(
            [s.prompt_ids + s.rollout.token_ids for s in missing],
            [(len(s.prompt_ids), len(s.prompt_ids) + len(s.rollout.token_ids)) for s in missing],
            [s.temperature for s in missing],
            with_entropy=True,
        )
        for sample, (logprobs, entropies) in zip(missing, scores, strict=True):
            sample.old_logprobs, sample.entropies = logprobs, entropies

    def sync_engine(self) -> None:
        """Hand the weights to the engine; the first times, see that it took them."""
        if self.config.engine.name == "hf":
            return
        self.team.sync()
        if self.engine_checks:
            self.engine_checks -= 1
            some = range(min(CHECKED_PROMPTS, len(self.dataset)))
            rows = [self.prompts.rendered(index).token_ids for index in some if self.prompts.get(index) is not None]
            check_engine(self.team, rows, self.config)

    def tokens_scored(self) -> int:
        """Tokens passed through the model besides sampling and update, since last asked."""
        total, self.team.tokens_scored = self.team.tokens_scored, 0
        return total

    def log(self, metrics: dict[str, Any], timings: dict[str, float], step: Collected, weights_NT: FloatArray) -> None:
        """Write the step's metrics and rollouts, and show them."""
        timings["checkpoint"], self.checkpoint_seconds = self.checkpoint_seconds, 0.0
        metrics |= {f"timing_s/{phase}": seconds for phase, seconds in timings.items()}
        if self.config.reporting.log_rollouts:
            record_weights(step.trained, weights_NT)
            self.folder.write_rollouts(metrics["step"], rollout_rows(step))
        self.folder.append_metrics(metrics)
        self.trackers.log(metrics, metrics["step"])
        self.display.step(metrics)
        self._refuse_stale_engine(metrics.get("sampling/logp_difference", 0.0))

    def after_step(self) -> None:
        """Evaluate and save where it is due."""
        every = self.config.evaluation.eval_steps
        last = self.step == self.config.training.total_steps
        if every and self.step % every == 0 and not last:
            self.evaluate()
        if self.step % self.config.training.save_steps == 0 or last or self.stop_requested:
            self.save()

    def save(self) -> None:
        """A checkpoint of everything that changes the next step."""
        started = perf_counter()
        state = {
            "stream": self.stream.state_dict(),
            "strategies": self.strategies.state_dict(),
            "lengths": self.collector.lengths.state_dict(),
            "costs": asdict(self.costs),
        }
        checkpoint.save(
            self.folder.checkpoints, self.step, self.team.save, state, self.config.training.save_total_limit
        )
        self.checkpoint_seconds = perf_counter() - started

    def evaluate(self) -> None:
        """Answer the evaluation set with the present policy and note the result."""
        settings = self.config.evaluation
        if settings.dataset_name is None:
            return
        dataset = load_prompts(settings.dataset_name, split=settings.split, limit=settings.limit)
        with progress(f"evaluate (step {self.step})", len(dataset) * settings.num_samples, "rollouts") as advance:
            evaluation = evaluate(
                self.team,
                self.policy.tokenizer,
                dataset,
                self.renderer,
                self.judge,
                k=settings.num_samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_completion_length=self.config.training.max_completion_length,
                max_prompt_length=self.prompts.max_length,
                seed=self.config.seed,
                correct_reward=self.config.rewards.correct_reward,
                progress=advance,
            )
        line = {"step": self.step, "name": settings.split, **evaluation.summary(self.config.seed)}
        line |= {"rollouts_total": self.costs.rollouts_total, "rollouts_trained": self.costs.rollouts_trained}
        line |= {"train_seconds": self.costs.seconds, "prompt_ids": evaluation.prompt_ids}
        line |= {"per_prompt": evaluation.correct_PK.mean(axis=1).tolist()}
        self.folder.append_evaluation(line)
        self.trackers.log_evaluation(line, self.step)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint, whose model and optimiser the learner has already."""
        state = checkpoint.read_state(folder)
        self.step = int(folder.name.removeprefix("step-"))
        self.stream.load_state_dict(state["stream"])
        self.strategies.load_state_dict(state["strategies"])
        self.costs = Costs(**state["costs"])
        self.collector.lengths.load_state_dict(state["lengths"])
        self.folder.truncate(self.step, self.config.training.total_steps)

    def _decode(self, token_ids: list[int]) -> str:
        return str(self.policy.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _refuse_stale_engine(self, difference: float) -> None:
        limit = self.config.engine.vllm_max_logp_difference
        if self.config.engine.name != "hf" and difference > limit:
            raise RunError(
                f"in step {self.step - 1} the engine's log-probs differ from the trainer's by {difference:.3f} on "
                f"average, more than engine.vllm_max_logp_difference={limit}: it may not have taken the weights"
            )

    def _run_info(self) -> RunInfo:
        training = self.config.training
        return RunInfo(
            num_prompts=len(self.dataset),
            total_steps=training.total_steps,
            prompts_per_step=training.prompts_per_step,
            num_generations=training.num_generations,
            seed=self.config.seed,
            vocab_size=self.policy.vocab_size,
            columns=self.dataset.columns,
        )


def train(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any] | None:
    """Do a run, or go on with one; returns its summary on the main process, None on the others.

    Raises:
        UsageError: bad configuration or data; RunError: a failure at run time; KeyboardInterrupt: after saving.
    """
    processes = Processes(config.training)
    folder = RunFolder(Path(config.output_dir))

    def start() -> Path | None:
        check_trackers(config)
        check_hub(config)
        newest = checkpoint.newest(folder.checkpoints) if resume else None
        folder.check(config, resume=resume, overwrite=overwrite)
        Judge(config.rewards)  # refuses unknown functions
        return newest

    resume_from = processes.share(start)
    judge = Judge(config.rewards) if processes.is_main else None
    if judge is not None:
        judge.start()
    learner = build_learner(config, processes, resume_from)
    summary = None
    if judge is not None:
        with processes.controlling(), judge:
            summary = _control(Run(config, folder, judge, learner), resume_from)
    else:
        processes.serve(learner)
    close_engine = learner.engine.close
    del learner
    processes.leave(close_engine)
    return summary


def _control(run: Run, resume_from: Path | None) -> dict[str, Any]:
    """The main process's part."""
    from prepo_cli.training.loop import train_loop

    config, folder, evaluation = run.config, run.folder, run.config.evaluation
    if resume_from is not None:
        run.resume(resume_from)
    folder.begin(config, resume=resume_from is not None)
    say_what_was_taken(run)
    with Trackers(config, folder.path, run.step) as run.trackers:
        run.sync_engine()
        if evaluation.at_start and run.step == 0:
            run.evaluate()
        with _stop_after_step(run), TrainingDisplay(config.training.total_steps, run.step) as run.display:
            train_loop(run)
        if run.stop_requested and run.step < config.training.total_steps:
            raise KeyboardInterrupt(f"stopped after step {run.step}; go on with --resume")
        if evaluation.at_end:
            run.evaluate()
    run.team.export(folder.final)
    summary = build_summary(config, folder)
    folder.finish(config, summary)
    return summary


@contextmanager
def _stop_after_step(run: Run) -> Iterator[None]:
    """Make the first interrupt (or SIGTERM) end the run after the step at hand, saved; a second one ends it at once."""

    def request(number: int, frame: Any) -> None:
        if run.stop_requested:
            raise KeyboardInterrupt("stopped at once; go on from the last checkpoint with --resume")
        run.stop_requested = True
        say("stopping after this step, then saving; interrupt again to stop at once")

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals can only be set in the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_what_was_taken(run: Run) -> None:
    """One line on the data and one on the model."""
    dataset, model, processes = run.dataset, run.policy.model, run.team.processes
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    parameters = sum(map(size, model.parameters()))
    trained = sum(map(size, run.learner.layout.parameters))
    where = f"on {run.policy.device}" + (f" in {processes.count} processes" if processes.count > 1 else "")
    part = f", {trained:,} of them trained" if trained < parameters else ""
    say(f"{model.config.model_type}: {parameters:,} parameters{part} {where}")
