"""A run from start to summary: `train` is the one call behind `prepo train`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from prepo_cli import signals
from prepo_cli.config import resolve
from prepo_cli.distributed.processes import Processes
from prepo_cli.files import readable_lines
from prepo_cli.policy.loading import verify_model
from prepo_cli.policy.tensors import size
from prepo_cli.reporting.hub import check_hub
from prepo_cli.reporting.latest import link_latest
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.reporting.summary import build_summary
from prepo_cli.reporting.trackers import check_trackers
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.startup import collection_paused
from prepo_cli.terminal import say
from prepo_cli.text import counted
from prepo_cli.training import checkpoint
from prepo_cli.training.build import build_learner
from prepo_cli.training.extension import refuse_limits, what_changes
from prepo_cli.training.log import RunLog
from prepo_cli.training.loop import train_loop
from prepo_cli.training.profiling import profiled
from prepo_cli.training.progress import Progress
from prepo_cli.training.run import Run


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    break_lock: bool = False,
    profile: bool = False,
) -> dict[str, Any] | None:
    """Start or resume a run; returns its summary on the main process, None on the others.

    With `profile`, a trace of the first steps is written to the run folder.

    The main process keeps the run folder's lock; `break_lock` takes over that of a process on another machine.
    Where a failure ends the training loop, it saves a sound state that no checkpoint holds yet: see `Run.rescue`.

    Raises:
        UsageError: bad configuration or data; RunError: a failure at run time; KeyboardInterrupt: after saving.
    """
    processes = Processes(config.training)
    folder = RunFolder(Path(config.output_dir))
    judge: Judge | None = None
    with ExitStack() as claim:

        def check() -> Path | None:
            nonlocal judge
            check_trackers(config)
            check_hub(config)
            claim.enter_context(folder.claimed(config, resume=resume, overwrite=overwrite, break_lock=break_lock))
            judge = claim.enter_context(Judge(config.rewards))
            found = _checkpoint(folder, config) if resume else None
            if found is not None:
                progress = Progress()
                progress.load_state_dict(checkpoint.read_state(found)["progress"])
                refuse_limits(folder.path, resolve([folder.config]), config, progress)
            say(strategies_line(config))
            if found is None or config.model.use_peft or config.training.beta > 0:  # else only checkpoints are loaded
                verify_model(config.model)
            return found

        resume_from = processes.share(check)
        return _train(config, folder, processes, judge, resume_from, profile)


def _checkpoint(folder: RunFolder, config: RunConfig) -> Path | None:
    """The checkpoint to resume from; None if the run ended before its first, and therefore starts again.

    Where a checkpoint was due and is gone, a new start would overwrite what the run has left: that is refused.
    """
    steps = len(readable_lines(folder.metrics)[0])
    started = folder.is_ours and not folder.final.exists() and steps < config.training.save_steps
    if started and not checkpoint.existing(folder.checkpoints):
        say(f"{folder.path} has no checkpoint yet; starting again from step 0")
        return None
    return checkpoint.newest(folder.checkpoints)


def _train(
    config: RunConfig,
    folder: RunFolder,
    processes: Processes,
    judge: Judge | None,
    resume_from: Path | None,
    profile: bool,
) -> dict[str, Any] | None:
    """What all processes do once the main one has claimed the run folder."""
    summary = None
    with ExitStack() as stack:
        with collection_paused():
            learner = build_learner(config, processes, resume_from)
            if judge is not None:  # on the main process
                stack.enter_context(processes.controlling())
                run = Run(config, folder, judge, learner)
        if processes.is_main:
            summary = _control(run, resume_from, profile)
            del run
        else:
            processes.serve(learner)
    close_engine = learner.engine.close
    del learner
    processes.leave(close_engine)
    return summary


def _control(run: Run, resume_from: Path | None, profile: bool) -> dict[str, Any]:
    """The main process's part."""
    config, folder, progress = run.config, run.folder, run.progress
    if resume_from is not None:
        before = resolve([folder.config])
        run.resume(resume_from)
        if note := what_changes(before, config, progress):
            say(note)
    folder.begin(config, resume=resume_from is not None)
    link_latest(folder.path)
    announce(run)
    with RunLog(config, folder, run.limits, progress) as run.log:
        run.sync_engine()
        if config.evaluation.at_start and progress.step == 0:
            run.evaluate()
        with _stop_after_step(progress), run.log.display_steps(), _saved_on_failure(run):
            if progress.evaluation_due and not run.finished:
                run.evaluate()
            with profiled(folder.path if profile else None, config.training.total_steps) as after_step:
                train_loop(run, after_step)
        if not run.finished:
            raise KeyboardInterrupt(f"stopped at step {progress.step}; continue with --resume")
        if config.evaluation.at_end:
            run.evaluate()
        run.log.figure()
    if run.stream.left_out:
        say(f"left out for exceeding {run.prompts.max_length:,} tokens: {counted(run.stream.left_out, 'prompt')}")
    run.export()
    summary = build_summary(config, folder)
    folder.finish(config, summary)
    return summary


def strategies_line(config: RunConfig) -> str:
    """What each slot holds.

    >>> strategies_line(resolve())
    'recipe prepo: selector ppl-schedule, budget uniform, filter keep-all, weighting rel-entropy, \
temperature-schedule constant'
    """
    slots = config.strategies.model_dump()
    return f"recipe {config.recipe}: " + ", ".join(f"{slot.replace('_', '-')} {slots[slot]}" for slot in slots)


@contextmanager
def _stop_after_step(progress: Progress) -> Iterator[None]:
    """On the first signal save and stop after the current step, on a second interrupt or SIGTERM stop immediately."""
    insistent: list[int] = []

    def request(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            signals.leave_terminal()
        if number in signals.INSISTENT:
            if insistent:
                raise KeyboardInterrupt("stopped immediately; continue from the last checkpoint with --resume")
            insistent.append(number)
        progress.stop_requested = True
        with suppress(OSError, RuntimeError):  # it may have come in the middle of another line
            say("saving after this step, then stopping; interrupt again to stop immediately")

    with signals.handled(request):
        yield


@contextmanager
def _saved_on_failure(run: Run) -> Iterator[None]:
    """If the training loop fails, save what can be saved; an interrupt that asks to stop immediately saves nothing."""
    try:
        yield
    except Exception:  # whatever it is: the state is saved, and the error goes on
        run.rescue()
        raise


def announce(run: Run) -> None:
    """Print a line on the data, the strategies' notes and a line on the model."""
    dataset, policy, processes = run.dataset, run.learner.policy, run.team.processes
    say(f"{dataset.name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    for note in run.evaluation.notes():
        say(note)
    parameters = sum(map(size, policy.model.parameters()))
    trained = sum(map(size, run.learner.layout.parameters))
    where = f"on {policy.device}" + (f" in {processes.count} processes" if processes.count > 1 else "")
    part = f", {trained:,} of them trained" if trained < parameters else ""
    for note in run.strategies.notes():
        say(note)
    kind = policy.model.config.model_type
    say(f"{kind}: {parameters:,} parameters{part} {where}")
    if policy.scorer.packing is None and not policy.scorer.packs_whole:
        attention = policy.model.config._attn_implementation
        say(f"short rows are padded, not packed: {kind} with {attention} attention can't keep packed rows apart")
