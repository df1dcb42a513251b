"""A step's rollouts as the batch that weightings see, the report that strategies get, and the lines of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prepo_cli.data.columns import gold_text, prompt_text
from prepo_cli.data.loading import PromptDataset
from prepo_cli.evaluation.folder import REWARD_PREFIX
from prepo_cli.rewards.metrics import reward_metrics
from prepo_cli.training.advantages import EPSILON, advantages
from prepo_cli.training.costs import Costs
from prepo_cli.training.rollouts import Collected, Groups, R, Rolled, Sample
from prepo_cli.training.update_stats import UpdateStats
from strategies.types import Batch, FloatArray, IntArray, StepContext, StepReport


def assign_advantages(groups: Sequence[Sequence[Rolled]], scale_rewards: str, epsilon: float = EPSILON) -> None:
    """Set the advantage of each rollout in its group."""
    samples = [sample for group in groups for sample in group]
    rewards_N = np.array([sample.reward for sample in samples], dtype=np.float64)
    normalized_N = advantages(rewards_N, group_numbers(groups), scale_rewards, epsilon)
    for sample, advantage in zip(samples, normalized_N, strict=True):
        sample.advantage = float(advantage)


def make_batch(groups: Groups) -> Batch:
    """The batch that weightings see; `entropy_NT` is None unless the entropies of all rollouts are known."""
    samples = [sample for group in groups for sample in group]
    lengths_N = np.array([sample.num_tokens for sample in samples], dtype=np.int64)
    mask_NT = np.arange(int(lengths_N.max(initial=0)))[None] < lengths_N[:, None]
    known = [sample.entropies for sample in samples if sample.entropies is not None]
    entropy_NT = None
    if len(known) == len(samples):
        entropy_NT = np.zeros(mask_NT.shape, dtype=np.float32)
        entropy_NT[mask_NT] = np.concatenate([np.zeros(0, dtype=np.float32), *known])
    return Batch(
        group_N=group_numbers(groups),
        rewards_N=np.array([sample.reward for sample in samples], dtype=np.float64),
        advantages_N=np.array([sample.advantage for sample in samples], dtype=np.float64),
        entropy_NT=entropy_NT,
        mask_NT=mask_NT,
    )


def record_weights(groups: Groups, weights_NT: FloatArray) -> None:
    """Store each rollout's mean token weight for the rollout log."""
    samples = [sample for group in groups for sample in group]
    for sample, weight_T in zip(samples, weights_NT, strict=True):
        sample.weight = float(weight_T[: sample.num_tokens].mean()) if sample.num_tokens else 0.0


def step_report(
    ctx: StepContext, epoch: int, batch: Batch, update: UpdateStats, costs: Costs, spent: float | None
) -> StepReport:
    """The report that strategies get at the end of a step; `epoch` and `spent` are as they are after it.

    The entropy is the mean over all trained tokens if it was known before the update, otherwise over the tokens of the
    rollouts that have a gradient.
    """
    return StepReport(
        step=ctx.step,
        total_steps=ctx.total_steps,
        epoch=ctx.epoch,
        epochs_ended=epoch - ctx.epoch,
        temperature=ctx.temperature,
        entropy=update.mean_entropy if batch.entropy_NT is None else batch.token_mean_entropy,
        reward=float(batch.rewards_N.mean()) if len(batch.rewards_N) else 0.0,
        updated=update.optimizer_steps > 0,
        rollouts_total=costs.rollouts_total,
        rollouts_trained=costs.rollouts_trained,
        spent=spent,
    )


def step_metrics(
    report: StepReport, step: Collected[Sample], update: UpdateStats, learning_rate: float, prompts_left_out: int
) -> dict[str, Any]:
    """The step's line in metrics.jsonl; shares are over all groups rolled out, dropped ones included."""
    return {
        "step": report.step,
        "epoch": report.epoch,
        "reward_trained": report.reward,
        **rollout_metrics(step),
        **reward_metrics(step.scores),
        "entropy": report.entropy,
        "temperature": report.temperature,
        "prompts/mean_length": float(np.mean([len(group[0].prompt_ids) for group in step.groups])),
        "prompts/left_out": prompts_left_out,
        "updated": report.updated,
        "learning_rate": learning_rate,
        **update.metrics(),
    }


def rollout_metrics(step: Collected[R]) -> dict[str, float]:
    """What shows of a step's rollouts in any trainer."""
    groups, shown = step.groups, [rollout.completion() for rollout in step.samples]
    rewards = [np.array([rollout.reward for rollout in group]) for group in groups]
    return {
        "reward": float(np.mean([seen.reward for seen in shown])),
        "reward_std": float(np.mean([_deviation(r) for r in rewards])),
        "frac_reward_zero_std": float(np.mean([r.min() == r.max() for r in rewards])),
        "frac_all_correct": _share(groups, lambda group: all(rollout.correct for rollout in group)),
        "frac_all_wrong": _share(groups, lambda group: not any(rollout.correct for rollout in group)),
        "completions/mean_length": float(np.mean([seen.num_tokens for seen in shown])),
        "completions/clipped_ratio": float(np.mean([seen.truncated for seen in shown])),
        "rounds": step.rounds,
        "groups_rolled": len(groups),
        "groups_trained": len(step.trained),
        "rollouts_trained": sum(map(len, step.trained)),
    }


def rollout_rows(step: Collected[Sample], dataset: PromptDataset, scored: Mapping[int, float]) -> dict[str, list[Any]]:
    """Columns of rollouts/step_*.parquet; the dataset has the texts of the prompts.

    `ppl` is the prompt's perplexity: by row in `scored`, else as stored in the dataset, else NaN.
    """
    unknown = float("nan")
    samples = [(number, sample) for number, group in enumerate(step.groups) for sample in group]
    rows = [group[0].prompt.index for group in step.groups]
    prompts = [prompt_text(dataset.messages(row)) for row in rows]
    golds = [gold_text(dataset.answer(row)) for row in rows]
    return {
        "prompt_id": [s.prompt.id for _, s in samples],
        "group": [number for number, _ in samples],
        "prompt": [prompts[number] for number, _ in samples],
        "gold": [golds[number] for number, _ in samples],
        "ppl": [scored.get(s.prompt.index, unknown if s.prompt.ppl is None else s.prompt.ppl) for _, s in samples],
        "text": [s.text for _, s in samples],
        "reward": [s.reward for _, s in samples],
        "correct": [s.correct for _, s in samples],
        "advantage": [s.advantage for _, s in samples],
        "weight": [s.weight for _, s in samples],
        "entropy": [s.completion().entropy for _, s in samples],
        "length": [s.num_tokens for _, s in samples],
        "truncated": [s.rollout.truncated for _, s in samples],
        "temperature": [s.temperature for _, s in samples],
        "fate": [s.fate for _, s in samples],
        **{f"{REWARD_PREFIX}{name}": [_known(s.rewards[name]) for _, s in samples] for name in samples[0][1].rewards},
    }


def group_numbers(groups: Sequence[Sequence[Rolled]]) -> IntArray:
    """The number of each rollout's group [N]."""
    return np.array([number for number, group in enumerate(groups) for _ in group], dtype=np.int64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _deviation(rewards_N: FloatArray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # infinite where squares of rewards are
        return float(rewards_N.std(ddof=1)) if len(rewards_N) > 1 else 0.0


def _share(groups: Sequence[Sequence[R]], test: Callable[[Sequence[R]], bool]) -> float:
    return sum(map(test, groups)) / len(groups)
