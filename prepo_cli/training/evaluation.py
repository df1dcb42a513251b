"""Evaluations before, during and after training, always on the same prompts with the same random numbers."""

from __future__ import annotations

from typing import Any

from prepo_cli.data.loading import load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.evaluation.evaluate import evaluate
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import progress as progress_bar
from prepo_cli.training.progress import Progress
from prepo_cli.training.team import Team


class TrainingEvaluation:
    """Answers the evaluation set with the current policy."""

    def __init__(self, config: RunConfig, team: Team, renderer: Renderer, judge: Judge, max_prompt_length: int) -> None:
        self.config, self.team, self.renderer, self.judge = config, team, renderer, judge
        self.max_prompt_length = max_prompt_length
        settings = config.evaluation
        self.dataset = (
            None
            if settings.dataset_name is None
            else load_prompts(settings.dataset_name, split=settings.split, limit=settings.limit)
        )

    def is_due(self, step: int) -> bool:
        """Whether one is due after `step` steps, the end of the run apart."""
        every = self.config.evaluation.eval_steps
        return bool(every) and step % (every or 1) == 0 and step < self.config.training.total_steps

    def run(self, progress: Progress) -> dict[str, Any] | None:
        """A line of evaluations.jsonl; None where there is no evaluation set."""
        if self.dataset is None:
            return None
        settings, k = self.config.evaluation, self.config.evaluation.num_samples
        with progress_bar(f"evaluate (step {progress.step})", len(self.dataset) * k, "rollouts") as advance:
            evaluation = evaluate(
                self.team,
                self.team.learner.policy.tokenizer,
                self.dataset,
                self.renderer,
                self.judge,
                k=k,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_completion_length=self.config.training.max_completion_length,
                max_prompt_length=self.max_prompt_length,
                seed=self.config.seed,
                progress=advance,
            )
        return {
            "step": progress.step,
            "name": settings.split,
            **evaluation.summary(self.config.seed),
            "rollouts_total": progress.costs.rollouts_total,
            "rollouts_trained": progress.costs.rollouts_trained,
            "train_seconds": progress.costs.seconds,
            "prompt_ids": evaluation.prompt_ids,
            "per_prompt": evaluation.correct_PK.mean(axis=1).tolist(),
        }
