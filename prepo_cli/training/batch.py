"""From collected rollouts to what strategies weigh and the log shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prepo_cli.training.advantages import advantages
from prepo_cli.training.collect import Collected, Sample
from strategies.types import Batch, FloatArray, StepReport

Groups = Sequence[Sequence[Sample]]


def assign_advantages(groups: Groups, scale_rewards: str) -> None:
    """Set each rollout's advantage, taken over the rollouts of its group that are trained on."""
    samples = [sample for group in groups for sample in group]
    rewards_N = np.array([sample.reward for sample in samples], dtype=np.float64)
    for sample, advantage in zip(samples, advantages(rewards_N, _numbers(groups), scale_rewards), strict=True):
        sample.advantage = float(advantage)


def make_batch(groups: Groups) -> Batch:
    """The batch that weightings see; every sample's entropies must be known."""
    samples = [sample for group in groups for sample in group]
    lengths_N = np.array([len(sample.rollout.token_ids) for sample in samples], dtype=np.int64)
    width = int(lengths_N.max(initial=0))
    mask_NT = np.arange(width)[None] < lengths_N[:, None]
    entropy_NT = np.zeros((len(samples), width), dtype=np.float32)
    if samples:
        entropy_NT[mask_NT] = np.concatenate([s.entropies for s in samples if s.entropies is not None])
    return Batch(
        group_N=_numbers(groups),
        rewards_N=np.array([sample.reward for sample in samples], dtype=np.float64),
        advantages_N=np.array([sample.advantage for sample in samples], dtype=np.float64),
        entropy_NT=entropy_NT,
        mask_NT=mask_NT,
    )


def record_weights(groups: Groups, weights_NT: FloatArray) -> None:
    """Note each rollout's mean weight for the rollout log."""
    samples = [sample for group in groups for sample in group]
    for sample, weights in zip(samples, weights_NT, strict=True):
        length = len(sample.rollout.token_ids)
        sample.weight = float(weights[:length].mean()) if length else 0.0


def step_metrics(
    report: StepReport, step: Collected, batch: Batch, update: dict[str, float], learning_rate: float
) -> dict[str, Any]:
    """The step's line in metrics.jsonl; shares are over all groups rolled out, dropped ones included."""
    groups, samples = step.groups, step.samples
    rewards = [np.array([sample.reward for sample in group]) for group in groups]
    lengths_N = np.array([len(sample.rollout.token_ids) for sample in samples])
    return {
        "step": report.step,
        "epoch": report.epoch,
        "reward": float(np.mean([sample.reward for sample in samples])),
        "reward_std": float(np.mean([r.std(ddof=1) if len(r) > 1 else 0.0 for r in rewards])),
        "reward_trained": report.reward,
        "frac_reward_zero_std": float(np.mean([r.min() == r.max() for r in rewards])),
        "frac_all_correct": _share(groups, lambda group: all(s.correct for s in group)),
        "frac_all_wrong": _share(groups, lambda group: not any(s.correct for s in group)),
        "entropy": report.entropy,
        "temperature": report.temperature,
        "completions/mean_length": float(lengths_N.mean()),
        "completions/clipped_ratio": float(np.mean([sample.rollout.truncated for sample in samples])),
        "prompts/mean_length": float(np.mean([len(group[0].prompt_ids) for group in groups])),
        "rounds": step.rounds,
        "groups_rolled": len(groups),
        "groups_trained": len(step.trained),
        "rollouts_trained": len(batch.rewards_N),
        "updated": report.updated,
        "reward_timeouts": step.timeouts,
        "learning_rate": learning_rate,
        **update,
    }


def rollout_rows(step: Collected) -> dict[str, list[Any]]:
    """Columns of rollouts/step_*.parquet."""
    samples = [(number, sample) for number, group in enumerate(step.groups) for sample in group]
    return {
        "prompt_id": [s.prompt.id for _, s in samples],
        "group": [number for number, _ in samples],
        "text": [s.text for _, s in samples],
        "reward": [s.reward for _, s in samples],
        "correct": [s.correct for _, s in samples],
        "advantage": [s.advantage for _, s in samples],
        "weight": [s.weight for _, s in samples],
        "entropy": [s.completion().entropy for _, s in samples],
        "length": [len(s.rollout.token_ids) for _, s in samples],
        "truncated": [s.rollout.truncated for _, s in samples],
        "temperature": [s.temperature for _, s in samples],
        "fate": [s.fate for _, s in samples],
    }


def _numbers(groups: Groups) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([number for number, group in enumerate(groups) for _ in group], dtype=np.int64)


def _share(groups: Groups, test: Callable[[Sequence[Sample]], bool]) -> float:
    return sum(map(test, groups)) / len(groups)
