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


TRAINED = "steps that train on at least one token"
CORRECTED = "engines vllm and vllm-server with an importance-sampling correction"

STEPS = (
    Metric("step", "steps", "training steps completed by the policy that sampled; 0 in the first line"),
    Metric("epoch", "epochs", "passes over the training set before this step"),
    Metric("reward", "reward", "mean over all rollouts of the step, including dropped ones"),
    Metric("reward_std", "reward", "standard deviation (n - 1) within a group, averaged over all groups"),
    Metric("reward_trained", "reward", "mean over the rollouts trained on"),
    Metric(
        "rewards/*/mean", "reward", "mean of the function's own values, unweighted, over the completions it applies to"
    ),
    Metric("rewards/*/std", "reward", "standard deviation (n - 1) of these values"),
    Metric("rewards/errors", "completions", "completions that a reward function failed on or gave no finite score"),
    Metric("rewards/timeouts", "completions", "completions that timed out in checking and count as wrong"),
    Metric(
        "frac_reward_zero_std", "share", "share of groups whose rewards are all equal, so they give no learning signal"
    ),
    Metric("frac_all_correct", "share", "share of groups whose rollouts are all correct"),
    Metric("frac_all_wrong", "share", "share of groups without a correct rollout"),
    Metric("entropy", "nats", "mean entropy of the policy over the tokens trained on, before the update"),
    Metric("temperature", "", "sampling temperature of the step"),
    Metric("completions/mean_length", "tokens", "mean length of all completions"),
    Metric("completions/clipped_ratio", "share", "share of completions cut off at training.max_completion_length"),
    Metric("prompts/mean_length", "tokens", "mean length of the prompts rolled out"),
    Metric("prompts/left_out", "prompts", "prompts left out so far because they are too long"),
    Metric("rounds", "rounds", "rounds of rollouts needed to fill the batch"),
    Metric("groups_rolled", "groups", "groups rolled out in the step"),
    Metric("groups_trained", "groups", "groups with at least one rollout trained on"),
    Metric("rollouts_trained", "rollouts", "rollouts trained on in the step"),
    Metric("updated", "", "whether the weights were updated: true or false"),
    Metric("learning_rate", "", "the optimizer's learning rate in this step"),
    Metric("loss", "", "the loss, averaged according to training.loss_type"),
    Metric("grad_norm", "", "gradient norm before clipping, averaged over the step's optimizer steps"),
    Metric("skipped_steps", "optimizer steps", "optimizer steps skipped because the loss or gradient was not finite"),
    Metric(
        "kl",
        "nats",
        "k3 estimate of the KL divergence from the initial policy, per token",
        "training.beta > 0",
    ),
    Metric("clip_ratio/low", "share", "share of tokens clipped at 1 - epsilon (negative advantage)", TRAINED),
    Metric("clip_ratio/high", "share", "share of tokens clipped at 1 + epsilon_high (positive advantage)", TRAINED),
    Metric(
        "sampling/logp_difference",
        "nats",
        "mean absolute difference between trainer and engine log-probs, per token",
        TRAINED,
    ),
    Metric("sampling/logp_difference_max", "nats", "largest such difference of any token", TRAINED),
    Metric(
        "sampling/kl", "nats", "k3 estimate of the KL divergence of the engine from the trainer, per token", TRAINED
    ),
    Metric(
        "sampling/importance_ratio",
        "ratio",
        "probability ratio trainer / engine before truncation or masking, mean over tokens",
        CORRECTED,
    ),
    Metric("sampling/importance_ratio_min", "ratio", "lowest ratio", CORRECTED),
    Metric("sampling/importance_ratio_max", "ratio", "highest ratio", CORRECTED),
    Metric("sampling/corrected_ratio", "share", "share of tokens whose ratio was truncated or masked", CORRECTED),
    Metric("cost/rollouts_total", "rollouts", "rollouts generated so far, including dropped and pilot ones"),
    Metric("cost/rollouts_trained", "rollouts", "rollouts trained on so far"),
    Metric("cost/tokens_generated", "tokens", "tokens generated so far"),
    Metric("cost/tokens_scored", "tokens", "tokens scored so far, for perplexities and extra log-probs"),
    Metric("cost/seconds", "seconds", "training time so far, excluding evaluations and checkpoints"),
    Metric("timing_s/select", "seconds", "selector, budget and filter, including perplexity scoring"),
    Metric("timing_s/generate", "seconds", "generating rollouts and decoding them to text"),
    Metric("timing_s/reward", "seconds", "scoring completions, apart from what was checked during generation"),
    Metric(
        "timing_s/logprob", "seconds", "computing log-probs and entropies before the update, advantages and weights"
    ),
    Metric("timing_s/update", "seconds", "forward and backward passes and optimizer steps"),
    Metric("timing_s/sync", "seconds", "sending the weights to the engine"),
    Metric("timing_s/checkpoint", "seconds", "writing a checkpoint since the previous line; not part of timing_s/step"),
    Metric("timing_s/log", "seconds", "logging the previous line and its rollouts; not part of timing_s/step"),
    Metric("timing_s/step", "seconds", "the whole step: all of the above but checkpoints and logging"),
)
"""A line of metrics.jsonl, except for the strategies' own metrics."""

EVALUATIONS = (
    Metric("step", "steps", "training steps completed by the evaluated policy"),
    Metric("name", "", "the evaluated split, or holdout"),
    Metric("avg@*", "share", "mean accuracy over k samples, with a 95% interval over prompts"),
    Metric(
        "pass@*",
        "share",
        "unbiased estimate of the probability that at least one of this many samples is correct, with interval",
    ),
    Metric("maj@*", "share", "accuracy of the majority answer among k samples, with interval"),
    Metric("reward", "reward", "mean over all samples"),
    Metric("rewards", "reward", "mean and std of each reward function, if there are several"),
    Metric("mean_length", "tokens", "mean length of the completions"),
    Metric("truncated", "share", "share of completions cut off"),
    Metric("prompts", "prompts", "prompts evaluated"),
    Metric("left_out", "prompts", "prompts left out because they are too long"),
    Metric("timeouts", "completions", "completions that timed out in checking and count as wrong"),
    Metric("errors", "completions", "completions that a reward function failed on"),
    Metric("k", "samples", "samples per prompt"),
    Metric("seconds", "seconds", "duration of the evaluation"),
    Metric("by_source", "share", "number of prompts and avg@k of each source, if the prompts are grouped by source"),
    Metric("rollouts_total", "rollouts", "rollouts generated so far in training, as in cost/rollouts_total"),
    Metric("rollouts_trained", "rollouts", "rollouts trained on so far"),
    Metric("train_seconds", "seconds", "training time so far, as in cost/seconds"),
    Metric("prompt_ids", "", "ids of the prompts, in the order of per_prompt"),
    Metric("per_prompt", "share", "for each prompt, the share of its k samples that are correct"),
)
"""A line of evaluations.jsonl."""

SUMMARY = (
    Metric("steps", "steps", "steps completed: one more than the last `step` in metrics.jsonl"),
    Metric("skipped_steps", "optimizer steps", "optimizer steps skipped in the whole run"),
    Metric("cost", "", "the final cost/* values, without the prefix"),
    Metric("metric", "", "name of the main measure, avg@k"),
    Metric("before", "share", "measures before training, with intervals, and the number of prompts"),
    Metric("after", "share", "the same after training"),
    Metric("difference", "share", "change in the main measure, after - before, with an interval paired by prompt"),
)
"""summary.json, besides the settings it repeats."""


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
