"""The training loop.

temperature -> rounds of (select, allocate, generate, reward, observe, filter) until the batch is full -> advantages
per group -> log-probs and entropies, if needed before the update -> weights -> update -> end of step -> log ->
checkpoint. Every method fits the five slots; none has a special case here. run.py assembles the run's parts, train.py
starts and ends the run.
"""

from __future__ import annotations

from collections.abc import Callable

from prepo_cli.training.batch import assign_advantages, make_batch, step_metrics, step_report
from prepo_cli.training.run import Run
from prepo_cli.training.sample import training_samples
from prepo_cli.training.schedule import learning_rate
from prepo_cli.training.stopwatch import Stopwatch


def train_loop(run: Run, after_step: Callable[[], None]) -> None:
    """Train until a limit is reached or a stop is requested."""
    while not (run.finished or run.progress.stop_requested):
        train_step(run)
        after_step()


def train_step(run: Run) -> None:
    """One step."""
    training, strategies, progress = run.config.training, run.strategies, run.progress
    watch = Stopwatch()
    with watch.phase("select"):
        run.begin_step()
        ctx = run.context()
        rate = learning_rate(training, ctx.step, ctx.spent)
    step = run.collector.collect(ctx, watch)
    with watch.phase("logprob"):
        assign_advantages(step.kept, training.scale_rewards)
        groups = step.trained
        run.updater.prepare(groups, strategies.weighting.needs_entropy)
        batch = make_batch(groups)
        weights_NT = strategies.weigh(batch, ctx)
        samples = training_samples(groups, weights_NT)
    with watch.phase("update"):
        run.begin_update()
        update = run.updater.update(samples, rate, ctx.step, with_entropy=batch.entropy_NT is None)
        run.record_skipped(ctx.step, update)
    with watch.phase("sync"):
        run.sync_engine()
    seconds = watch.seconds | {"step": watch.total}

    progress.costs.charge(step, run.team.take_tokens_scored(), seconds["step"])
    progress.step += 1
    report = step_report(ctx, run.stream.epoch, batch, update, progress.costs, run.limits.spent(progress))
    strategies.end_step(report)

    metrics = step_metrics(report, step, update, rate, run.stream.left_out) | strategies.metrics()
    run.log_step(metrics | progress.costs.metrics(), seconds, step, weights_NT)
    run.after_step(len(step.samples))
