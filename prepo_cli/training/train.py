"""A run from start to summary: `train` is the one call behind `prepo train`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prepo_cli.distributed.processes import Processes
from prepo_cli.policy.tensors import size
from prepo_cli.reporting.hub import check_hub
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.summary import build_summary
from prepo_cli.reporting.trackers import check_trackers
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.startup import collection_paused
from prepo_cli.terminal import say
from prepo_cli.training import checkpoint
from prepo_cli.training.build import build_learner
from prepo_cli.training.log import RunLog
from prepo_cli.training.loop import train_loop
from prepo_cli.training.progress import Progress
from prepo_cli.training.run import Run


def train(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any] | None:
    """Start or resume a run; returns its summary on the main process, None on the others.

    Raises:
        UsageError: bad configuration or data; RunError: a failure at run time; KeyboardInterrupt: after saving.
    """
    processes = Processes(config.training)
    folder = RunFolder(Path(config.output_dir))

    def check() -> Path | None:
        check_trackers(config)
        check_hub(config)
        newest = checkpoint.newest(folder.checkpoints) if resume else None
        folder.check(config, resume=resume, overwrite=overwrite)
        Judge(config.rewards)  # rejects unknown functions
        return newest

    resume_from = processes.share(check)
    summary = None
    with ExitStack() as stack:
        with collection_paused():
            learner = build_learner(config, processes, resume_from)
            if processes.is_main:
                stack.enter_context(processes.controlling())
                judge = stack.enter_context(Judge(config.rewards))
                run = Run(config, folder, judge, learner)
        if processes.is_main:
            summary = _control(run, resume_from)
            del run
        else:
            processes.serve(learner)
    close_engine = learner.engine.close
    del learner
    processes.leave(close_engine)
    return summary


def _control(run: Run, resume_from: Path | None) -> dict[str, Any]:
    """The main process's part."""
    config, folder, progress = run.config, run.folder, run.progress
    if resume_from is not None:
        run.resume(resume_from)
    folder.begin(config, resume=resume_from is not None)
    announce(run)
    with RunLog(config, folder, run.limits, progress) as run.log:
        run.sync_engine()
        if config.evaluation.at_start and progress.step == 0:
            run.evaluate()
        with _stop_after_step(progress), run.log.display_steps():
            train_loop(run)
        if not run.finished:
            raise KeyboardInterrupt(f"stopped after step {progress.step}; continue with --resume")
        if config.evaluation.at_end:
            run.evaluate()
    if run.stream.left_out:
        say(f"{run.stream.left_out:,} prompts were left out: longer than {run.prompts.max_length:,} tokens")
    run.team.export(folder.final)
    summary = build_summary(config, folder)
    folder.finish(config, summary)
    return summary


@contextmanager
def _stop_after_step(progress: Progress) -> Iterator[None]:
    """On the first interrupt (or SIGTERM) save and stop after the current step, on a second one stop immediately."""

    def request(number: int, frame: Any) -> None:
        if progress.stop_requested:
            raise KeyboardInterrupt("stopped immediately; continue from the last checkpoint with --resume")
        progress.stop_requested = True
        say("stopping after this step, then saving; interrupt again to stop immediately")

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals can only be set in the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announce(run: Run) -> None:
    """Print a line on the data, the strategies' notes and a line on the model."""
    dataset, policy, processes = run.dataset, run.learner.policy, run.team.processes
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    parameters = sum(map(size, policy.model.parameters()))
    trained = sum(map(size, run.learner.layout.parameters))
    where = f"on {policy.device}" + (f" in {processes.count} processes" if processes.count > 1 else "")
    part = f", {trained:,} of them trained" if trained < parameters else ""
    for note in run.strategies.notes():
        say(note)
    say(f"{policy.model.config.model_type}: {parameters:,} parameters{part} {where}")
