"""`prepo eval`: set up model, dataset and judge, evaluate chunk by chunk, and resume where an evaluation stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prepo_cli.data.holdout import hold_out
from prepo_cli.data.loading import PromptDataset, load_configured_prompts
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines import ENGINES, build_engine
from prepo_cli.engines.base import Engine
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.evaluator import Evaluator, Sampling
from prepo_cli.evaluation.folder import EvaluationFolder
from prepo_cli.evaluation.results import Evaluation, join
from prepo_cli.evaluation.settings import GREEDY, EvalConfig, SamplingConfig, fingerprint
from prepo_cli.lock import locked_folder
from prepo_cli.policy.loading import load_model_spec, load_policy, model_source, verify_model
from prepo_cli.rewards.judge import Judge
from prepo_cli.terminal import progress, say

C = TypeVar("C", bound=SamplingConfig)


@dataclass(frozen=True)
class _Job:
    """An evaluation: its settings, prompts and folder, and its summary if it is already done."""

    config: EvalConfig
    dataset: PromptDataset
    folder: EvaluationFolder
    done: dict[str, Any] | None


def run_evaluation(config: EvalConfig, *, overwrite: bool = False, break_lock: bool = False) -> dict[str, Any]:
    """Run an evaluation, resume an interrupted one, or read a finished one; returns its summary.

    Raises:
        UsageError: bad settings, data or output folder; KeyboardInterrupt: finished chunks are kept.
    """
    return run_evaluations([config], overwrite=overwrite, break_lock=break_lock)[0]


def run_evaluations(
    configs: Sequence[EvalConfig], *, overwrite: bool = False, break_lock: bool = False
) -> list[dict[str, Any]]:
    """Evaluations that differ only in data and output folder, all with one model and engine; returns their summaries.

    Raises:
        UsageError: bad settings, data or output folder; KeyboardInterrupt: finished chunks are kept.
    """
    first = configs[0]
    if first.temperature == 0:
        say(GREEDY)
    with ExitStack() as stack:
        for config in configs:
            stack.enter_context(locked_folder(Path(config.output_dir), break_lock))
        judge = stack.enter_context(Judge(first.rewards))
        jobs = [_job(config, judge, overwrite) for config in configs]
        waiting = [job for job in jobs if job.done is None]
        if not waiting:
            return [job.done for job in jobs if job.done is not None]
        fitted, evaluator, engine = prepare(first, waiting[0].dataset, judge, Path(first.output_dir) / "sync")
        stack.callback(engine.close)
        return [job.done or _run(job, fitted, evaluator.on(job.dataset)) for job in jobs]


def _job(config: EvalConfig, judge: Judge, overwrite: bool) -> _Job:
    """Read the dataset and open the folder."""
    dataset = load_configured_prompts(config, answer_column=config.answer_column, need_answer=judge.needs_answers)
    held = hold_out(dataset, config.holdout, config.holdout_limit) if config.holdout else None
    if held is not None:
        dataset = held.evaluated
    mark = fingerprint(config, model_source(config.model.model_name_or_path), dataset)
    folder = EvaluationFolder(Path(config.output_dir), mark)
    done = folder.open(overwrite)
    if done is not None:
        say(f"{folder.path} already contains this evaluation; run it again with --overwrite")
    return _Job(config, dataset, folder, done)


def prepare(config: C, dataset: PromptDataset, judge: Judge, sync_dir: Path) -> tuple[C, Evaluator, Engine]:
    """The configuration with lengths that fit the model, the evaluator, and the engine it generates with."""
    verify_model(config.model)
    shares_weights = ENGINES[config.engine.name].load().shares_weights
    model = load_policy(config.model) if shares_weights else load_model_spec(config.model)
    config = config.with_lengths(model.max_context)
    assert config.max_completion_length is not None and config.max_prompt_length is not None
    renderer = Renderer(model.tokenizer, config.system_prompt, config.chat_template_kwargs)
    engine = build_engine(
        config.engine,
        model,
        config.model,
        max_context=config.max_prompt_length + config.max_completion_length,
        seed=config.seed,
        sync_dir=sync_dir,
    )
    sampling = Sampling(
        k=config.k,
        temperature=config.temperature,
        top_p=config.top_p,
        max_completion_length=config.max_completion_length,
        seed=config.seed,
    )
    prompts = Prompts(dataset, renderer, config.max_prompt_length)
    return config, Evaluator(engine, model.tokenizer, prompts, judge, sampling), engine


def _run(job: _Job, fitted: EvalConfig, evaluator: Evaluator) -> dict[str, Any]:
    """Evaluate a dataset; `fitted` has the lengths that fit the model."""
    dataset, folder = job.dataset, job.folder
    lengths = {name: getattr(fitted, name) for name in ("max_completion_length", "max_prompt_length")}
    config = job.config.model_copy(update=lengths)
    say(f"{config.prompts_name}: {len(dataset):,} prompts; {'; '.join(dataset.notes)}")
    try:
        evaluation = join(_parts(evaluator, folder), config.k, keep_texts=False)
    except KeyboardInterrupt:
        say(f"finished chunks are kept in {folder.partial}; run the same command to resume")
        raise
    if not evaluation.prompt_ids:
        raise UsageError(
            f"all {evaluation.left_out} prompts are longer than {config.max_prompt_length} tokens; "
            "raise --max-prompt-length or lower --max-completion-length"
        )
    summary = _summary(config, evaluation, folder.fingerprint)
    folder.finish(config, len(evaluator.chunks), summary)
    return summary


def _parts(evaluator: Evaluator, folder: EvaluationFolder) -> Iterator[Evaluation]:
    """Every chunk's evaluation in order; those that are missing are computed and kept."""
    chunks, total = evaluator.chunks, len(evaluator.dataset)
    kept = [folder.read_part(number) for number in range(len(chunks))]
    missing = sum(len(rows) for rows, part in zip(chunks, kept, strict=True) if part is None)
    if missing < total:
        say(f"resuming: {total - missing:,} of {total:,} prompts are done")
    with progress("evaluate", missing * evaluator.sampling.k, "rollouts") as advance:
        for number, (rows, part) in enumerate(zip(chunks, kept, strict=True)):
            if part is None:
                part = evaluator.evaluate_rows(rows, advance)
                folder.write_part(number, part)
            yield part


def _summary(config: EvalConfig, evaluation: Evaluation, mark: str) -> dict[str, Any]:
    return {
        "model": config.model.model_name_or_path,
        "dataset": config.prompts_name,
        "split": config.split,
        **evaluation.summary(config.seed),
        "prompts_per_second": len(evaluation.prompt_ids) / max(evaluation.seconds, 1e-9),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_completion_length": config.max_completion_length,
        "max_prompt_length": config.max_prompt_length,
        "seed": config.seed,
        "output_dir": config.output_dir,
        "fingerprint": mark,
    }
