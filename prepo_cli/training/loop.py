"""The training loop.

temperature -> rounds of (select, allocate, generate, reward, observe, filter) until the batch is full -> advantages
per group -> weights -> update -> end of step -> log -> checkpoint. Everything a method needs fits the five slots;
there is no special case for any of them here. The run's parts are put together in run.py.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from prepo_cli.training.batch import assign_advantages, make_batch, step_metrics
from prepo_cli.training.run import Run
from prepo_cli.training.sample import trainees
from strategies.types import StepContext, StepReport


def train_loop(run: Run) -> None:
    """Train from `run.step` to the last step, or until the run is asked to stop."""
    training, strategies, costs = run.config.training, run.strategies, run.costs
    while run.step < training.total_steps and not run.stop_requested:
        started = perf_counter()
        ctx = StepContext(
            step=run.step,
            total_steps=training.total_steps,
            epoch=run.stream.epoch,
            round=0,
            seed=run.config.seed,
            probe=run.probe,
        )
        ctx = replace(ctx, temperature=strategies.temperature(ctx))
        run.begin_step()

        step = run.collector.collect(ctx)
        collected = perf_counter()
        groups = step.trained
        assign_advantages(groups, training.scale_rewards)
        run.take_entropies(groups)
        batch = make_batch(groups)
        weights_NT = strategies.weigh(batch, ctx)
        students = trainees(groups, weights_NT, training.mask_truncated_completions)
        run.updater.prepare(students)
        scored = perf_counter()
        update = run.updater.update(students, run.learning_rate, run.step)
        updated = perf_counter()
        run.sync_engine()
        synced = perf_counter()

        costs.charge(step, run.tokens_scored(), synced - started)
        report = StepReport(
            step=run.step,
            total_steps=training.total_steps,
            epoch=ctx.epoch,
            epochs_ended=run.stream.epoch - ctx.epoch,
            temperature=ctx.temperature,
            entropy=batch.token_mean_entropy,
            reward=float(batch.rewards_N.mean()) if len(batch.rewards_N) else 0.0,
            updated=bool(students),
            rollouts_total=costs.rollouts_total,
            rollouts_trained=costs.rollouts_trained,
        )
        strategies.end_step(report)
        run.step += 1

        metrics = step_metrics(report, step, batch, update, run.learning_rate) | strategies.metrics() | costs.metrics()
        timings = {
            **step.seconds,
            "logprob": scored - collected,
            "update": updated - scored,
            "sync": synced - updated,
            "step": synced - started,
        }
        run.log(metrics, timings, step, weights_NT)
        run.after_step()
