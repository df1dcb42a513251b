"""Every metric that a run writes, with its unit and meaning: the source of docs/metrics.md.

A * in a name stands for any text. Strategies describe their own metrics in `metric_help`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from strategies import registry
from strategies.strategy_set import metric_name


@dataclass(frozen=True)
class Metric:
    """A metric, or all whose names match; `when` says in which runs or steps it is written, "" for all."""

    name: str
    unit: str
    meaning: str
    when: str = ""


TRAINED = "steps that train on any token"
CORRECTED = "engines vllm and vllm-server, unless the correction is none"

STEPS = (
    Metric("step", "steps", "for which the policy that sampled had been trained: 0 in the first line"),
    Metric("epoch", "epochs", "passes over the training set before this step"),
    Metric("reward", "reward", "mean over all rollouts of the step, dropped ones included"),
    Metric("reward_std", "reward", "standard deviation (n - 1) within a group, mean over all groups"),
    Metric("reward_trained", "reward", "mean over the rollouts trained on"),
    Metric("rewards/*/mean", "reward", "mean of a reward function's own values, where it applies"),
    Metric("rewards/*/std", "reward", "standard deviation (n - 1) of these values"),
    Metric("rewards/errors", "completions", "that a reward function failed on, or scored with no finite number"),
    Metric("rewards/timeouts", "completions", "that took too long to check and count as wrong"),
    Metric("frac_reward_zero_std", "share", "of all groups, with equal rewards, which teach nothing"),
    Metric("frac_all_correct", "share", "of all groups, with all rollouts correct"),
    Metric("frac_all_wrong", "share", "of all groups, with no rollout correct"),
    Metric("entropy", "nats", "mean entropy of the policy over the tokens trained on, before the update"),
    Metric("temperature", "", "sampling temperature of the step"),
    Metric("completions/mean_length", "tokens", "mean length of all completions"),
    Metric("completions/clipped_ratio", "share", "of all completions, cut off at training.max_completion_length"),
    Metric("prompts/mean_length", "tokens", "mean length of the prompts rolled out"),
    Metric("prompts/left_out", "prompts", "left out so far because they are too long"),
    Metric("rounds", "rounds", "of rollouts that it took to fill the batch"),
    Metric("groups_rolled", "groups", "rolled out in the step"),
    Metric("groups_trained", "groups", "with a rollout that was trained on"),
    Metric("rollouts_trained", "rollouts", "trained on in the step"),
    Metric("updated", "", "whether the weights were updated: true or false"),
    Metric("learning_rate", "", "of the optimiser in the step"),
    Metric("loss", "", "the loss, averaged as training.loss_type says"),
    Metric("grad_norm", "", "norm of the gradient before it is clipped, mean over the step's optimiser steps"),
    Metric("skipped_steps", "optimiser steps", "not taken because the loss or the gradient was not finite"),
    Metric(
        "kl",
        "nats",
        "k3 estimate of the KL divergence of the policy from the initial one, per token",
        "training.beta > 0",
    ),
    Metric("clip_ratio/low", "share", "of the tokens, clipped at 1 - epsilon with a negative advantage", TRAINED),
    Metric("clip_ratio/high", "share", "of the tokens, clipped at 1 + epsilon_high with a positive one", TRAINED),
    Metric("sampling/logp_difference", "nats", "mean |log-prob of trainer - of engine| of a token", TRAINED),
    Metric("sampling/logp_difference_max", "nats", "the largest of a token", TRAINED),
    Metric(
        "sampling/kl", "nats", "k3 estimate of the KL divergence of the engine from the trainer, per token", TRAINED
    ),
    Metric("sampling/importance_ratio", "ratio", "trainer / engine, mean over tokens before it is limited", CORRECTED),
    Metric("sampling/importance_ratio_min", "ratio", "the lowest of them", CORRECTED),
    Metric("sampling/importance_ratio_max", "ratio", "the highest of them", CORRECTED),
    Metric("sampling/corrected_ratio", "share", "of the tokens, whose ratio was limited or masked", CORRECTED),
    Metric("cost/rollouts_total", "rollouts", "generated so far, dropped and pilot ones included"),
    Metric("cost/rollouts_trained", "rollouts", "trained on so far"),
    Metric("cost/tokens_generated", "tokens", "sampled so far"),
    Metric("cost/tokens_scored", "tokens", "passed through the model so far for perplexities and extra log-probs"),
    Metric("cost/seconds", "seconds", "of training so far; evaluations and checkpoints don't count"),
    Metric("timing_s/select", "seconds", "selector and budget, scoring of perplexities included"),
    Metric("timing_s/generate", "seconds", "generating"),
    Metric("timing_s/reward", "seconds", "scoring completions"),
    Metric("timing_s/logprob", "seconds", "log-probs and entropies before the update, advantages and weights"),
    Metric("timing_s/update", "seconds", "forward and backward passes and optimiser steps"),
    Metric("timing_s/sync", "seconds", "sending the weights to the engine"),
    Metric("timing_s/checkpoint", "seconds", "writing a checkpoint since the line before; not part of timing_s/step"),
    Metric("timing_s/step", "seconds", "the whole step"),
)
"""Of a line of metrics.jsonl, but for the strategies' own."""

EVALUATIONS = (
    Metric("step", "steps", "for which the evaluated policy had been trained"),
    Metric("name", "", "the split"),
    Metric("avg@*", "share", "mean accuracy of k samples, with a 95% interval over prompts"),
    Metric("pass@*", "share", "unbiased estimate of the chance that one of so many samples is correct, with interval"),
    Metric("maj@*", "share", "accuracy of the most frequent answer of k samples, with interval"),
    Metric("reward", "reward", "mean over all samples"),
    Metric("rewards", "reward", "mean and std by reward function, where there are several"),
    Metric("mean_length", "tokens", "mean length of the completions"),
    Metric("truncated", "share", "of the completions, cut off"),
    Metric("prompts", "prompts", "evaluated"),
    Metric("left_out", "prompts", "left out because they are too long"),
    Metric("timeouts", "completions", "that took too long to check and count as wrong"),
    Metric("errors", "completions", "that a reward function failed on"),
    Metric("k", "samples", "per prompt"),
    Metric("seconds", "seconds", "that the evaluation took"),
    Metric("by_source", "share", "prompts and avg@k by source, where sources group the prompts"),
    Metric("rollouts_total", "rollouts", "generated in training so far, as in cost/rollouts_total"),
    Metric("rollouts_trained", "rollouts", "trained on so far"),
    Metric("train_seconds", "seconds", "of training so far, as in cost/seconds"),
    Metric("prompt_ids", "", "the prompts, in the order of the next field"),
    Metric("per_prompt", "share", "of the k samples of each prompt that are correct"),
)
"""Of a line of evaluations.jsonl."""

SUMMARY = (
    Metric("steps", "steps", "finished: one more than the last line's step in metrics.jsonl"),
    Metric("skipped_steps", "optimiser steps", "not taken, over the whole run"),
    Metric("cost", "", "the last line's cost/*, without the prefix"),
    Metric("metric", "", "the name of the main measure, avg@k"),
    Metric("before", "share", "measures before training, with intervals, and the number of prompts"),
    Metric("after", "share", "the same after training"),
    Metric("difference", "share", "of the main measure, after - before, with its interval paired by prompt"),
)
"""Of summary.json, beside the settings it repeats."""


def of_strategies() -> dict[tuple[str, str], list[Metric]]:
    """The metrics of every registered strategy that has any, by slot and name."""
    return {
        (cls.slot, cls.name): [
            Metric(metric_name(cls.slot, key), unit, meaning) for key, (unit, meaning) in cls.metric_help.items()
        ]
        for cls in registry.listed()
        if cls.metric_help
    }


def described(name: str, metrics: Iterable[Metric]) -> bool:
    """Whether a metric is among these.

    >>> described("rewards/math/mean", STEPS), described("rewards/math/median", STEPS)
    (True, False)
    """
    return any(fnmatchcase(name, metric.name) for metric in metrics)
