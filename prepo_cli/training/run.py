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

import torch
from accelerate import Accelerator

from prepo_cli.config import RunConfig
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.data.stream import PromptStream
from prepo_cli.engines import build_engine
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.evaluate import evaluate
from prepo_cli.models import Policy, load_policy
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.summary import build_summary
from prepo_cli.reporting.terminal import TrainingDisplay, progress, say
from prepo_cli.rewards.judge import Judge
from prepo_cli.training import checkpoint
from prepo_cli.training.batch import record_weights, rollout_rows
from prepo_cli.training.collect import Collected, Collector, Sample
from prepo_cli.training.costs import Costs
from prepo_cli.training.prompts import PolicyProbe, Prompts
from prepo_cli.training.schedule import learning_rate
from prepo_cli.training.strategy_set import StrategySet
from prepo_cli.training.update import Updater
from strategies.types import FloatArray, RunInfo, derive_seed


class Run:
    """Everything that the loop works with."""

    def __init__(self, config: RunConfig, folder: RunFolder, judge: Judge, resume_from: Path | None) -> None:
        self.config, self.folder, self.judge = config, folder, judge
        training = config.training
        self.accelerator = Accelerator(mixed_precision=training.mixed_precision)
        if self.accelerator.num_processes > 1:
            raise UsageError(
                f"{self.accelerator.num_processes} processes were started, and this version trains in one; "
                "start it without a launcher"
            )
        self.policy = load_policy(_model_of(config, resume_from), train=True, device=self.accelerator.device)
        self.dataset = load_prompts(
            config.data.dataset_name,
            split=config.data.split,
            limit=config.data.limit,
            prompt_column=config.data.prompt_column,
            answer_column=config.data.answer_column,
            skip_bad_rows=config.data.skip_bad_rows,
        )
        self.renderer = Renderer(self.policy.tokenizer, config.data.system_prompt)
        self.prompts = Prompts(self.dataset, self.renderer, self._longest_prompt())
        self.stream = PromptStream(len(self.dataset), config.seed, self.prompts.get)
        self.strategies = StrategySet(config.strategies, self._run_info())
        self.optimizer = torch.optim.AdamW(
            [p for p in self.policy.model.parameters() if p.requires_grad],
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
            weight_decay=training.weight_decay,
        )
        self.policy.scorer, self.optimizer = self.accelerator.prepare(self.policy.scorer, self.optimizer)
        self.engine = build_engine(config.engine, self.policy)
        self.probe = PolicyProbe(self.policy, self.prompts, training.max_tokens_per_micro_batch)
        reference = load_policy(config.model, device=self.accelerator.device) if training.beta > 0 else None
        exact = training.mixed_precision == "no"
        self.updater = Updater(training, self.policy, self.optimizer, self.accelerator, reference, exact)
        self.collector = Collector(config, self.strategies, self.stream, self.prompts, self.engine, judge, self._decode)
        self.costs = Costs()
        self.step = 0
        self.learning_rate = training.learning_rate
        self.stop_requested = False
        self.checkpoint_seconds = 0.0
        self.display: TrainingDisplay
        if resume_from is not None:
            self._resume(resume_from)

    def begin_step(self) -> None:
        """Set what depends on the step's number alone: the learning rate, and torch's generator for dropout."""
        self.learning_rate = learning_rate(self.config.training, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        torch.manual_seed(derive_seed(self.config.seed, "torch", self.step))

    def entropies(self, groups: Sequence[Sequence[Sample]]) -> list[FloatArray]:
        """Entropy of every completion token: the engine's record, or a forward pass where the engine keeps none."""
        samples = [sample for group in groups for sample in group]
        recorded = [sample.rollout.entropies for sample in samples]
        if all(entropy is not None for entropy in recorded):
            return [entropy for entropy in recorded if entropy is not None]
        rows = [sample.prompt_ids + sample.rollout.token_ids for sample in samples]
        self.probe.tokens_scored += sum(map(len, rows))
        scores = self.policy.score(
            rows,
            [(len(s.prompt_ids), len(row)) for s, row in zip(samples, rows, strict=True)],
            [s.temperature for s in samples],
            self.config.training.max_tokens_per_micro_batch,
            with_entropy=True,
        )
        return [entropy for _, entropy in scores if entropy is not None]

    def tokens_scored(self) -> int:
        """Tokens passed through the model besides sampling and update, since last asked."""
        total = self.probe.tokens_scored + self.updater.tokens_scored
        self.probe.tokens_scored = self.updater.tokens_scored = 0
        return total

    def log(self, metrics: dict[str, Any], timings: dict[str, float], step: Collected, weights_NT: FloatArray) -> None:
        """Write the step's metrics and rollouts, and show them."""
        timings["checkpoint"], self.checkpoint_seconds = self.checkpoint_seconds, 0.0
        metrics |= {f"timing_s/{phase}": seconds for phase, seconds in timings.items()}
        if self.config.reporting.log_rollouts:
            record_weights(step.trained, weights_NT)
            self.folder.write_rollouts(metrics["step"], rollout_rows(step))
        self.folder.append_metrics(metrics)
        self.display.step(metrics)

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
            "costs": asdict(self.costs),
        }
        checkpoint.save(
            self.folder.checkpoints,
            self.step,
            self.policy,
            self.optimizer,
            state,
            self.config.training.save_total_limit,
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
                self.engine,
                self.policy.tokenizer,
                dataset,
                self.renderer,
                self.judge,
                k=settings.num_samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_completion_length=self.config.training.max_completion_length,
                max_prompt_length=self._longest_prompt(),
                seed=self.config.seed,
                correct_reward=self.config.rewards.correct_reward,
                progress=advance,
            )
        line = {"step": self.step, "name": settings.split, **evaluation.summary(self.config.seed)}
        line |= {"rollouts_total": self.costs.rollouts_total, "rollouts_trained": self.costs.rollouts_trained}
        line |= {"train_seconds": self.costs.seconds, "prompt_ids": evaluation.prompt_ids}
        line |= {"per_prompt": evaluation.correct_PK.mean(axis=1).tolist()}
        self.folder.append_evaluation(line)

    def _resume(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        self.step = int(folder.name.removeprefix("step-"))
        self.stream.load_state_dict(state["stream"])
        self.strategies.load_state_dict(state["strategies"])
        self.costs = Costs(**state["costs"])
        checkpoint.load_optimizer(folder, self.optimizer)
        self.folder.truncate(self.step)

    def _decode(self, token_ids: list[int]) -> str:
        return str(self.policy.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _longest_prompt(self) -> int:
        context = self.policy.max_context
        room = self.config.data.max_prompt_length
        if context is not None:
            room = min(room, context - self.config.training.max_completion_length)
        if room < 1:
            raise UsageError(
                f"training.max_completion_length={self.config.training.max_completion_length} leaves no room for a "
                f"prompt in the model's context of {context} tokens; set a smaller one"
            )
        return room

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


def train(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Do a run, or go on with one; returns its summary.

    Raises:
        UsageError: bad configuration or data; RunError: a failure at run time; KeyboardInterrupt: after saving.
    """
    from prepo_cli.training.loop import train_loop

    folder = RunFolder(Path(config.output_dir))
    resume_from = checkpoint.newest(folder.checkpoints) if resume else None
    folder.check(config, resume=resume, overwrite=overwrite)
    with Judge(config.rewards) as judge:
        run = Run(config, folder, judge, resume_from)
        folder.begin(config, resume=resume)
        say_what_was_taken(run.dataset, run.policy)
        evaluation = config.evaluation
        if evaluation.at_start and run.step == 0:
            run.evaluate()
        with _stop_after_step(run), TrainingDisplay(config.training.total_steps, run.step) as run.display:
            train_loop(run)
        if run.stop_requested and run.step < config.training.total_steps:
            raise KeyboardInterrupt(f"stopped after step {run.step}; go on with --resume")
        if evaluation.at_end:
            run.evaluate()
        checkpoint.save_model(folder.final, run.policy)
        run.engine.close()
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


def _model_of(config: RunConfig, resume_from: Path | None) -> Any:
    if resume_from is None:
        return config.model
    return config.model.model_copy(update={"model_name_or_path": str(resume_from / "model"), "revision": None})


def say_what_was_taken(dataset: PromptDataset, policy: Policy) -> None:
    """One line on the data and one on the model."""
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    parameters = sum(p.numel() for p in policy.model.parameters())
    say(f"{policy.model.config.model_type}: {parameters:,} parameters on {policy.device}")
