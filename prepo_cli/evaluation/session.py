"""One `prepo eval`: model, data and judge put together, chunk by chunk, from where it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines import build_engine
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.evaluate import Evaluation, Sampling, evaluate_rows, join
from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.evaluation.settings import EvalConfig, fingerprint
from prepo_cli.policy.loading import load_model_spec, load_policy, model_source
from prepo_cli.rewards.judge import Judge
from prepo_cli.terminal import progress, say


def run_evaluation(config: EvalConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Do an evaluation, go on with one, or read the one that is done; returns its summary.

    Raises:
        UsageError: bad settings, data or output folder; KeyboardInterrupt: finished chunks are kept.
    """
    with Judge(config.rewards) as judge:
        dataset = load_prompts(
            config.dataset_name,
            split=config.split,
            limit=config.limit,
            prompt_column=config.prompt_column,
            answer_column=config.answer_column,
            skip_bad_rows=config.skip_bad_rows,
        )
        mark = fingerprint(config, model_source(config.model.model_name_or_path), dataset)
        folder = EvaluationFolder(Path(config.output_dir), mark)
        done = folder.open(overwrite)
        if done is not None:
            say(f"{folder.path} holds this evaluation already; --overwrite does it anew")
            return done
        return _Session(config, dataset, folder, judge).run()


class _Session:
    def __init__(self, config: EvalConfig, dataset: PromptDataset, folder: EvaluationFolder, judge: Judge) -> None:
        self.dataset, self.folder, self.judge = dataset, folder, judge
        judge.start()
        self.subject = load_policy(config.model) if config.engine.name == "hf" else load_model_spec(config.model)
        self.config = config = config.with_lengths(self.subject.max_context)
        self.renderer = Renderer(self.subject.tokenizer, config.system_prompt, config.chat_template_kwargs)
        assert config.max_completion_length is not None and config.max_prompt_length is not None
        self.engine = build_engine(
            config.engine,
            self.subject,
            config.model,
            max_context=config.max_prompt_length + config.max_completion_length,
            seed=config.seed,
            sync_dir=Path(config.output_dir) / "sync",
        )
        self.sampling = Sampling(
            config.k,
            config.temperature,
            config.top_p,
            config.max_completion_length,
            config.max_prompt_length,
            config.seed,
            config.rewards.correct_reward,
        )
        size = self.sampling.rows_at_once
        self.chunks = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]

    def run(self) -> dict[str, Any]:
        say(f"{self.dataset.name}: {len(self.dataset):,} prompts; {'; '.join(self.dataset.notes)}")
        try:
            evaluation = join(self._evaluations(), self.config.k, keep_completions=False)
        except KeyboardInterrupt:
            say(f"what is finished is kept in {self.folder.partial}; the same command goes on from there")
            raise
        finally:
            self.engine.close()
        if not evaluation.prompt_ids:
            raise UsageError(
                f"all {evaluation.left_out} prompts are longer than {self.config.max_prompt_length} tokens; "
                "give a longer --max-prompt-length or a shorter --max-completion-length"
            )
        summary = self._summary(evaluation)
        self.folder.finish(self.config, len(self.chunks), summary)
        return summary

    def _evaluations(self) -> Iterator[Evaluation]:
        """Every chunk in order, the missing ones computed and kept."""
        kept = [self.folder.read_part(number) for number in range(len(self.chunks))]
        missing = sum(len(rows) for rows, part in zip(self.chunks, kept, strict=True) if part is None)
        if missing < len(self.dataset):
            say(f"going on: {len(self.dataset) - missing:,} of {len(self.dataset):,} prompts are done")
        with progress("evaluate", missing * self.config.k, "rollouts") as advance:
            for number, (rows, part) in enumerate(zip(self.chunks, kept, strict=True)):
                if part is None:
                    part = evaluate_rows(
                        rows,
                        self.engine,
                        self.subject.tokenizer,
                        self.dataset,
                        self.renderer,
                        self.judge,
                        self.sampling,
                        advance,
                    )
                    self.folder.write_part(number, part)
                yield part

    def _summary(self, evaluation: Evaluation) -> dict[str, Any]:
        config = self.config
        return {
            "model": config.model.model_name_or_path,
            "dataset": config.dataset_name,
            "split": config.split,
            **evaluation.summary(config.seed),
            "prompts_per_second": len(evaluation.prompt_ids) / max(evaluation.seconds, 1e-9),
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_completion_length": config.max_completion_length,
            "seed": config.seed,
            "output_dir": config.output_dir,
            "fingerprint": self.folder.fingerprint,
        }
