"""A training step against TRL's `GRPOTrainer`: time, generation, update and memory, on the same prompts and rewards.

The embedded model on its own task, 32 prompts with 8 rollouts of at most 128 tokens: the overhead of many small
operations counts. benchmarks/against_trl_15m.py does the same with a model that counts itself. Both generate with
transformers, in float32, with the loss type `dapo`. Rewards are 0 and 1 in turn, so that every rollout has an
advantage: prepo trains on no others, which is not what is measured here. TRL's micro-batches have the number of rows
given in `SIZES`. Neither evaluates. The two trainers take turns, step by step.

    python -m benchmarks --only against_trl      # needs trl; "make bench" installs it
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.paired import Claim, Found, peak_bytes
from benchmarks.turns import Turn
from prepo_cli.config import resolve
from prepo_cli.models import EMBEDDED_MODEL

CLAIMS = (
    Claim("against TRL, embedded model: step", "prepo", "trl", limit=0.3),
    Claim("against TRL, embedded model: generation", "prepo", "trl", "generate", limit=0.3),
    Claim("against TRL, embedded model: update", "prepo", "trl", "update", limit=0.35),
    Claim("against TRL, embedded model: peak memory", "prepo", "trl", "bytes", limit=0.6),
)
SIZES: dict[str, dict[str, Any]] = {"full": {"prompts": 32, "longest": 128, "trl_rows": 128}}
ROLLOUTS = 8
ONLY_STEPS: dict[str, Any] = {
    "training.save_steps": 1000,
    "evaluation.at_start": False,
    "evaluation.at_end": False,
    "evaluation.eval_steps": 1000,
    "reporting.figures": False,
}
"""A run that does nothing but train; benchmarks take fewer steps."""


def steps(variant: str, turn: Turn, rounds: int, **size: int) -> list[Found]:
    """What each step takes with the embedded model."""
    return of_model(variant, turn, rounds, lambda folder: EMBEDDED_MODEL, **size)


def of_model(
    variant: str, turn: Turn, rounds: int, model: Callable[[Path], Path], left_out: int = 1, **size: int
) -> list[Found]:
    """Seconds of each step, of its generation and its update, and the process's peak memory.

    Args:
        variant: `prepo` or `trl`.
        turn: called before each step.
        rounds: how many steps count.
        model: gives the model's folder, which it may write into the folder that it gets.
        left_out: how many steps are taken before those that count.
        size: see `SIZES`.
    """
    train = _prepo if variant == "prepo" else _trl
    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        found = train(model(Path(folder)), Path(folder), turn, steps=left_out + rounds, **size)[left_out:]
    return [step | {"bytes": peak_bytes()} for step in found]


def take_turns(turn: Turn) -> None:
    """Let prepo's own loop, in this process, call `turn` before each step."""
    from prepo_cli.training import loop

    step = loop.train_step

    def after_the_others(run: Any) -> None:
        turn()
        step(run)

    loop.train_step = after_the_others


def in_turn(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """0 and 1 in turn, whatever the completions are."""
    return [float(i % 2) for i in range(len(completions))]


def _prepo(model: Path, folder: Path, turn: Turn, prompts: int, longest: int, steps: int, trl_rows: int) -> list[Found]:
    from prepo_cli.training.train import train

    take_turns(turn)
    flags = ONLY_STEPS | {
        "recipe": "grpo",
        "model.model_name_or_path": str(model),
        "training.prompts_per_step": prompts,
        "training.num_generations": ROLLOUTS,
        "training.max_completion_length": longest,
        "training.learning_rate": 1e-5,
        "training.total_steps": steps,
        "rewards.functions": [f"{__name__}:in_turn"],
        "output_dir": str(folder / "run"),
    }
    train(resolve(flags=flags))
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        {
            "seconds": line["timing_s/step"],
            "generate": line["timing_s/generate"],
            "update": line["timing_s/logprob"] + line["timing_s/update"],
        }
        for line in lines
    ]


def _trl(model: Path, folder: Path, turn: Turn, prompts: int, longest: int, steps: int, trl_rows: int) -> list[Found]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from prepo_cli.data.loading import load_prompts
    from prepo_cli.policy.loading import load_tokenizer

    data = load_prompts("embedded")
    rows = [{"prompt": data.messages(i)} for i in range(prompts * steps)]
    found: list[Found] = []

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
            started = perf_counter()
            result = super()._generate_single_turn(*args, **options)
            found[-1]["generate"] += perf_counter() - started
            return result

        def _generate_and_score_completions(self, *args: Any, **options: Any) -> Any:
            started = perf_counter()
            result = super()._generate_and_score_completions(*args, **options)
            found[-1]["update"] -= perf_counter() - started
            return result

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **options: Any) -> None:
            turn()
            found.append({"seconds": -perf_counter(), "generate": 0.0, "update": 0.0})

        def on_step_end(self, *args: Any, **options: Any) -> None:
            found[-1]["seconds"] += perf_counter()
            found[-1]["update"] += found[-1]["seconds"]

    config = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=trl_rows, num_generations=ROLLOUTS,
        gradient_accumulation_steps=prompts * ROLLOUTS // trl_rows, max_completion_length=longest, max_steps=steps,
        learning_rate=1e-5, beta=0.0, temperature=1.0, top_p=1.0, top_k=0, loss_type="dapo", report_to=[], seed=0,
        save_strategy="no", logging_steps=1000, disable_tqdm=True, bf16=False, use_cpu=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        reward_funcs=in_turn,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(str(model)),
        callbacks=[Clock()],
    )
    trainer.train()
    return found
