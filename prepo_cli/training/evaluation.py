"""Evaluations before, during and after training, always on the same prompts with the same seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prepo_cli.data.holdout import Holdout
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.evaluator import Evaluator, Sampling
from prepo_cli.evaluation.settings import GREEDY
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import progress as progress_bar
from prepo_cli.terminal import say
from prepo_cli.text import counted
from prepo_cli.training.progress import Progress
from prepo_cli.training.team import Team


class TrainingEvaluation:
    """Evaluates the current policy on the evaluation set or on held-out prompts, if there are any."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        renderer: Renderer,
        judge: Judge,
        max_prompt_length: int,
        holdout: Holdout | None = None,
    ) -> None:
        self.config, self.holdout = config, holdout
        self._evaluator: Evaluator | None = None
        settings = config.evaluation
        dataset = None if holdout is None else holdout.evaluated
        if settings.dataset_name is not None:
            dataset = load_prompts(
                settings.dataset_name, split=settings.split, limit=settings.limit, need_answer=judge.needs_answers
            )
        if dataset is not None:
            sampling = Sampling(
                k=settings.num_samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_completion_length=config.training.max_completion_length,
                seed=config.seed,
            )
            if settings.temperature == 0:
                say(GREEDY)
            prompts = Prompts(dataset, renderer, max_prompt_length)
            self._evaluator = Evaluator(team, team.learner.policy.tokenizer, prompts, judge, sampling)

    def notes(self) -> Iterator[str]:
        """Startup lines: which prompts are held out."""
        holdout = self.holdout
        if holdout is not None:
            held, evaluated = len(holdout.held_out), len(holdout.evaluated)
            total = len(holdout.train) + held + holdout.repeats
            part = f", {evaluated:,} of them evaluated (evaluation.limit)" if evaluated < held else ""
            rows = "duplicate of them is" if holdout.repeats == 1 else "duplicates of them are"
            repeats = f"; {holdout.repeats:,} {rows} left out" if holdout.repeats else ""
            kept = f"{held:,} of {total:,} prompts are held out for evaluation{part}{repeats}"
            yield f"{kept}; evaluation.holdout=0 disables this"
        elif self.config.evaluation.holds_out:
            yield f"nothing is evaluated: {self.config.data.dataset_name} has too few prompts to hold any out"

    @property
    def datasets(self) -> dict[str, PromptDataset]:
        """The evaluation set by what messages call it, if there is one."""
        return {} if self._evaluator is None else {"evaluation set": self._evaluator.dataset}

    def is_due(self, progress: Progress, rolled_out: int) -> bool:
        """Whether one is due after a step of `rolled_out` rollouts, apart from the one at the end of the run."""
        steps, rollouts = self.config.evaluation.eval_steps, self.config.evaluation.eval_rollouts
        total = progress.costs.rollouts_total
        by_steps = steps is not None and progress.step % steps == 0
        return by_steps or (rollouts is not None and total // rollouts > (total - rolled_out) // rollouts)

    def run(self, progress: Progress) -> dict[str, Any] | None:
        """A line of evaluations.jsonl; None without an evaluation set."""
        if self._evaluator is None:
            return None
        rollouts = len(self._evaluator.dataset) * self._evaluator.sampling.k
        with progress_bar(f"evaluate (step {progress.step})", rollouts, "rollouts") as advance:
            evaluation = self._evaluator.evaluate(advance)
        longest = self._evaluator.prompts.max_length
        if not evaluation.prompt_ids:
            raise UsageError(
                f"all {evaluation.left_out:,} evaluation prompts are longer than {longest:,} tokens; raise "
                "data.max_prompt_length or lower training.max_completion_length"
            )
        if evaluation.left_out and progress.step == 0:
            say(f"left out for exceeding {longest:,} tokens: {counted(evaluation.left_out, 'evaluation prompt')}")
        return {
            "step": progress.step,
            "name": "holdout" if self.holdout is not None else self.config.evaluation.split,
            **evaluation.summary(self.config.seed),
            "rollouts_total": progress.costs.rollouts_total,
            "rollouts_trained": progress.costs.rollouts_trained,
            "train_seconds": progress.costs.seconds,
            "prompt_ids": evaluation.prompt_ids,
            "per_prompt": evaluation.correct_PK.mean(axis=1).tolist(),
        }
